"""Whiteouts and opaque directories."""

from __future__ import annotations

import itertools

import pytest

from fakes.archives import LAYER, Chain, D, F, H, P, S
from imgpull.errors import UnsafeEntryError
from imgpull.unpack.applier import WhiteoutOrderError
from imgpull.unpack.marks import Marks

OPAQUE = ".wh..wh..opq"

REFUSED = {
    "H030 parent": [F(".wh...")],
    "H030 parent, deep": [F("etc/.wh...")],
    "H030 itself": [F(".wh..")],
    "H030 itself, deep": [F("etc/.wh..")],
    "H030 nothing": [F(".wh.")],
    "H030 nothing, deep": [F("some/path/.wh.")],
    "H034 relative": [F("dne/../.wh.etc")],
    "H040 opaque directory": [D(OPAQUE)],
    "H040 opaque symlink": [S("d/" + OPAQUE, "x")],
    "H040 opaque with content": [F(OPAQUE, b"x")],
    "H040 directory": [D(".wh.x")],
    "H040 symlink": [S(".wh.x", "y")],
    "H040 fifo": [P(".wh.x")],
    "H040 content": [F(".wh.x", b"y")],
    "H040 child": [F(".wh.etc/somefile")],
    "H040 child of a directory": [F("a/.wh.b/c/d")],
    "H040 marker below a whiteout": [F(".wh.etc/.wh.somefile")],
    "H040 through a link": [S("l", ".wh.x"), F("l/y")],
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(chain: Chain, name: str) -> None:
    chain.apply(D("etc"), F("etc/keep"), F("some/path/keep"))
    with pytest.raises(UnsafeEntryError) as caught:
        chain.apply(*REFUSED[name])
    assert caught.value.layer == LAYER


@pytest.mark.parametrize("layer", [0, 1])
def test_nothing_of_aufs_is_made(chain: Chain, layer: int) -> None:
    """P6."""
    for _ in range(layer):
        chain.apply(F("a"))
    chain.apply(F(".wh..wh.aufs"), D(".wh..wh.plnk"), F(".wh..wh.plnk/12.3", b"x"), F("d/.wh..wh.orph/x"), F("a"))
    assert chain.names() == ["a"]


BASE = [D("etc"), F("etc/a", b"1"), F("etc/b", b"2"), D("etc/sub"), F("etc/sub/c", b"3"), F("top", b"4")]
KEPT = ["etc", "etc/a", "etc/b", "etc/sub", "etc/sub/c", "top"]


def names_after(chain: Chain, *entries: bytes) -> list[str]:
    chain.apply(*BASE)
    applied = chain.apply(*entries)
    assert not any(".wh." in name for name in chain.own_names()), applied
    return chain.names()


@pytest.mark.parametrize(
    ("entries", "gone", "new"),
    [
        ([F("etc/.wh.a")], {"etc/a"}, set()),
        ([F("./etc//.wh.a")], {"etc/a"}, set()),
        ([F("/etc/.wh.a")], {"etc/a"}, set()),
        ([F(".wh.etc")], {"etc", "etc/a", "etc/b", "etc/sub", "etc/sub/c"}, set()),
        ([F("etc/.wh.dne")], set(), set()),
        ([F("dne/.wh.a")], set(), set()),
        ([F("top/.wh.a")], set(), set()),
        ([F("etc/" + OPAQUE)], {"etc/a", "etc/b", "etc/sub", "etc/sub/c"}, set()),
        ([F(OPAQUE)], set(KEPT), set()),
        ([F("dne/" + OPAQUE)], set(), set()),
        ([F("top/" + OPAQUE)], set(), set()),
        ([F("etc/.wh.a"), H("etc/.wh.b", "etc/.wh.a")], {"etc/a", "etc/b"}, set()),
        ([F(".wh.etc"), F("etc/.wh.a"), F("etc/sub/" + OPAQUE)], {"etc", *KEPT[1:5]}, set()),
    ],
)
def test_what_goes(chain: Chain, entries: list[bytes], gone: set[str], new: set[str]) -> None:
    assert names_after(chain, *entries) == sorted((set(KEPT) - gone) | new)


ORDERLESS = {
    "H036 opaque": ([F("etc/x"), F("etc/" + OPAQUE), F("etc/sub/y")], ["etc", "etc/sub", "etc/sub/y", "etc/x", "top"]),
    "H037 same name": ([F("etc/a", b"new"), F("etc/.wh.a")], KEPT),
    "H038 directory": ([F(".wh.etc"), F("etc/x")], ["etc", "etc/x", "top"]),
    "H038 explicit directory": ([F(".wh.etc"), D("etc"), F("etc/x")], ["etc", "etc/x", "top"]),
    "H038 nested": ([F("etc/.wh.sub"), F("etc/sub/.wh.c")], ["etc", "etc/a", "etc/b", "top"]),
    "H038 file over directory": ([F(".wh.etc"), F("etc", b"x")], ["etc", "top"]),
    "H039 inside opaque": ([F("etc/" + OPAQUE), F("etc/.wh.a"), F("etc/sub/" + OPAQUE)], ["etc", "top"]),
    "root": ([F(OPAQUE), F("x/y"), F(".wh.top")], ["x", "x/y"]),
    "directory over file": ([F(".wh.top"), F("top/x")], ["etc", *KEPT[1:5], "top", "top/x"]),
}


@pytest.mark.parametrize("name", ORDERLESS)
def test_the_order_means_nothing(chain: Chain, name: str) -> None:
    entries, expected = ORDERLESS[name]
    chain.apply(*BASE)
    seen = set()
    for order in itertools.permutations(entries):
        applied = chain.apply(*order)
        assert chain.names() == expected, order
        seen.add(repr(applied.journal.to_json()))
        chain.layers.pop()
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("entries", "whiteouts", "opaques"),
    [
        ([F("etc/.wh.a")], {(b"etc",): {b"a"}}, set()),
        ([F("etc/.wh.dne"), F("dne/.wh.x")], {}, set()),
        ([F("etc/a"), F("etc/.wh.a")], {}, set()),
        ([F(".wh.etc"), F("etc/x")], {}, {(b"etc",)}),
        ([D("top"), F(".wh.top")], {}, set()),
        ([F("etc/" + OPAQUE), F("etc/.wh.a")], {}, {(b"etc",)}),
        ([F(".wh.etc"), F("etc/.wh.a"), F("etc/" + OPAQUE)], {(): {b"etc"}}, set()),
        ([F(OPAQUE), F("etc/.wh.a")], {}, {()}),
        ([F("etc/.wh.a"), F("etc", b"file")], {}, set()),
    ],
)
def test_the_journal_says_only_what_hides(
    chain: Chain, entries: list[bytes], whiteouts: object, opaques: object
) -> None:
    chain.apply(*BASE)
    journal = chain.apply(*entries).journal
    assert (journal.whiteouts, journal.opaques) == (whiteouts, opaques)


def test_dead_parents_leave_no_directory(chain: Chain) -> None:
    """H033."""
    chain.apply(S("localetc", "/dne"), D("etc"))
    chain.apply(F("localetc/.wh.etc"), F("gone/away/.wh.x"), F("localetc/" + OPAQUE))
    assert chain.names() == ["etc", "localetc"]
    assert chain.own_names() == set()


def test_through_a_loop(chain: Chain) -> None:
    chain.apply(S("a", "b"), S("b", "a"), F("keep"))
    chain.apply(F("a/.wh.x"), F("a/" + OPAQUE))
    assert chain.names() == ["a", "b", "keep"]


def test_a_whiteout_of_a_link_leaves_its_target(chain: Chain) -> None:
    """H031."""
    chain.apply(D("etc"), F("etc/keep"), S("localetc", "/etc"))
    chain.apply(F(".wh.localetc"))
    assert chain.names() == ["etc", "etc/keep"]


def test_through_a_link_inside_the_root(chain: Chain) -> None:
    """H032, H035."""
    chain.apply(D("etc"), F("etc/whitedout"), F("etc/keep"), S("localetc", "/etc"), D("d"), F("d/x"), S("l", "../d"))
    chain.apply(F("localetc/.wh.whitedout"), F("l/" + OPAQUE), F("l/new"))
    assert chain.names() == ["d", "d/new", "etc", "etc/keep", "l", "localetc"]


def test_a_directory_that_replaces_a_link_is_not_the_links_target(chain: Chain) -> None:
    """What overlay2 writes for a link replaced by a directory: the marker must not clear what the link led to."""
    chain.apply(D("etc"), F("etc/keep"), S("d", "etc"))
    chain.apply(D("d"), F("d/" + OPAQUE), F("d/x"))
    assert chain.names() == ["d", "d/x", "etc", "etc/keep"]
    chain.layers.pop()
    chain.apply(F("d/" + OPAQUE), D("d"), F("d/x"))
    assert chain.names() == ["d", "d/x", "etc", "etc/keep"]


def test_a_whiteout_below_what_this_layer_replaced_means_nothing(chain: Chain) -> None:
    chain.apply(D("a"), F("a/x"), D("c"), F("c/x"))
    chain.apply(S("a", "c"), F("a/.wh.x"))
    assert chain.names() == ["a", "c", "c/x"]


def test_implied_directories_do_not_depend_on_the_order(chain: Chain) -> None:
    chain.apply(D("d", 0o2711, uid=0, mtime=9))
    for entries in ([F(".wh.d"), F("d/x")], [F("d/x"), F(".wh.d")]):
        chain.apply(*entries)
        node = chain.node("d")
        assert node and (node.permissions, node.stat.st_mtime_ns) == (0o755, 0)
        chain.layers.pop()
    chain.apply(F("d/" + OPAQUE), F("d/x"))
    node = chain.node("d")
    assert node and (node.permissions, node.stat.st_mtime_ns) == (0o2711, 9 * 10**9)


@pytest.mark.parametrize("marker", [F(".wh.lib"), F(OPAQUE)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_hidden_link_leads_nowhere(chain: Chain, marker: bytes, turned: bool) -> None:
    chain.apply(S("lib", "usr/lib"), D("usr/lib"))
    entries = [F("lib/x", b"1"), marker]
    chain.apply(*(entries[::-1] if turned else entries))
    assert chain.read("lib/x") == b"1"
    assert "usr/lib/x" not in chain.names()
    assert chain.reapplied == (0 if turned else 1)


def test_the_error_that_asks_for_another_try(chain: Chain) -> None:
    chain.apply(S("lib", "usr/lib"))
    with pytest.raises(WhiteoutOrderError) as caught:
        chain.apply(F("lib/x"), F(".wh.lib"), hidden=Marks())
    assert isinstance(caught.value, UnsafeEntryError)
    assert caught.value.hidden is not None and caught.value.hidden.hides([b"lib"])
    assert "'lib'" in str(caught.value)


def test_whiteouts_in_the_first_layer_hide_nothing(chain: Chain) -> None:
    journal = chain.apply(F("a"), F(".wh.a"), F(".wh.b"), F(OPAQUE), F("d/" + OPAQUE)).journal
    assert chain.names() == ["a"]
    assert (journal.whiteouts, journal.opaques) == ({}, set())


def test_marks() -> None:
    marks = Marks()
    assert not marks.hides([b"a"])
    marks.whiteout([b"d"], [b"x", b"y"])
    marks.opaque([b"o"])
    marks.opaque([b"d", b"x", b"inner"])
    assert marks.hides([b"d", b"x"]) and marks.hides([b"d", b"y", b"deep"])
    assert marks.hides([b"o", b"x"]) and not marks.hides([b"o"])
    assert not marks.hides([]) and not marks.hides([b"d"]) and not marks.hides([b"d", b"z", b"x"])
    found: list[object] = []
    marks.outermost(lambda directory, name: found.append((directory, name)), found.append)
    assert sorted(map(repr, found)) == sorted(map(repr, [((b"d",), b"x"), ((b"d",), b"y"), (b"o",)]))


def test_thousands_of_whiteouts_in_deep_directories(chain: Chain) -> None:
    """H042: only the one that means something is in the journal."""
    deep = "/".join("d" * 200)
    chain.apply(F(f"{deep}/x"), F("wide/keep"))
    markers = [F(f"{'/'.join('d' * depth)}/.wh.n{number}") for depth in range(1, 200, 20) for number in range(100)]
    applied = chain.apply(*markers, *[F(f"wide/.wh.f{number}") for number in range(20_000)], F(f"{deep}/.wh.x"))
    assert applied.journal.whiteouts == {tuple(deep.encode().split(b"/")): {b"x"}}
