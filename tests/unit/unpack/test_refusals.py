"""What is refused, what is contained, and that nothing leads outside."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from fakes.archives import LAYER, LIMITS, C, Chain, D, F, H, P, S
from fakes.trees import open_descriptors
from imgpull.errors import (
    InvalidArchiveError,
    LimitExceededError,
    UnsafeEntryError,
)
from imgpull.unpack.owntree import OwnTree

# -- refused: the whole layer, with the entry's name in the error -------------------------------------------------

UNSAFE = {
    "H001 parent": [F("../victim/x")],
    "H001 absolute parent": [F("/../victim/x")],
    "H001 bare": [F("..")],
    "H001 directory": [D("../")],
    "H001 inside": [F("tmp/../x")],
    "H001 deep": [F("a/b/../../../x")],
    "H001 link": [S("../x", "y")],
    "H001 dots at the end": [D("a"), D("a/..")],
    "H009 symlink": [S(".", "/")],
    "H009 symlink slash": [S("./", "/")],
    "H009 symlink absolute": [S("/", "/etc")],
    "H009 file": [F(".", b"x")],
    "H009 fifo": [P("./")],
    "H009 device": [C("/", 1, 3)],
    "H009 hard link": [F("a"), H(".", "a")],
    "H008 empty symlink": [S("", "/etc/")],
    "H008 empty file": [F("", b"x")],
    "H010 hard link out": [H("x", "../victim/hello")],
    "H010 hard link out, absolute": [H("x", "/../victim/hello")],
    "H014 sibling": [H("grab", "../layer-evil/secret")],
    "H017 loop": [S("a", "b"), S("b", "a"), F("a/x")],
    "H017 self": [S("a", "a"), F("a/x")],
    "H017 through a directory": [S("a", "a/b"), F("a/x")],
    "H050 major": [C("c", 4096, 0)],
    "H050 minor": [C("c", 1, 1 << 20)],
    "H041 raw whiteout": [C("c", 0, 0)],
    "H067 long name": [F("n" * 256)],
    "H067 long directory": [F("n" * 256 + "/x")],
    "long link target": [S("s", "t" * 4096)],
}


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_entries_are_refused(chain: Chain, name: str) -> None:
    with pytest.raises(UnsafeEntryError) as caught:
        chain.apply(F("before"), *UNSAFE[name])
    assert caught.value.layer == LAYER
    assert caught.value.entry != "before"
    assert "\n" not in str(caught.value)


INVALID = {
    "H015 not yet there": [H("a", "b"), F("b")],
    "H015 loop": [H("a", "b"), H("b", "a")],
    "H015 itself": [F("a"), H("a", "a")],
    "H015 itself, other spelling": [F("a"), H("./a", "/a")],
    "H015 directory": [D("d"), H("a", "d")],
    "H015 root": [H("a", "/")],
    "H015 nothing": [H("a", "")],
    "H015 below itself": [D("d"), F("d/x"), H("d", "d/x")],
    "H015 above itself": [F("d"), H("d/x", "d")],
    "H015 through a file": [F("f"), H("a", "f/x")],
    "H015 through a missing directory": [H("a", "dne/x")],
    "H015 through a whiteout": [F(".wh.gone"), H("a", ".wh.gone")],
    "symlink to nothing": [S("s", "")],
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_entries_are_refused(chain: Chain, name: str) -> None:
    with pytest.raises(InvalidArchiveError) as caught:
        chain.apply(F("before"), *INVALID[name])
    assert caught.value.layer == LAYER


@pytest.mark.parametrize(
    ("entries", "limit"),
    [
        ([F("/".join("a" * 40))], "path_depth"),
        ([D("/".join("a" * 30)), S("s", "/".join("a" * 30)), F("s/" + "/".join("b" * 10))], "path_depth"),
        ([F("a/" * 40 + ".wh.x")], "path_depth"),
        ([F("n" * 100 + "/" + "m" * 101)], "path_bytes"),
    ],
)
def test_limits(chain: Chain, entries: list[bytes], limit: str) -> None:
    limits = dataclasses.replace(LIMITS, path_depth=32, path_bytes=200)
    with pytest.raises(LimitExceededError) as caught:
        chain.apply(*entries, limits=limits)
    assert (caught.value.limit, caught.value.layer) == (limit, LAYER)


def test_links_of_many_parts_are_not_walked_for_ever(chain: Chain) -> None:
    """255 links of 2 000 parts each would be half a million steps for one name (H007, H017)."""
    links = [S(f"l{i}", f"{'d/../' * 700}l{i + 1}") for i in range(200)]
    with pytest.raises(UnsafeEntryError, match="too many symbolic links"):
        chain.apply(D("d"), *links, F("l0/x"))


# -- contained ----------------------------------------------------------------------------------------------------

CONTAINED: dict[str, tuple[list[bytes], str, bytes]] = {
    "H002 absolute": ([F("/tmp/x", b"1")], "tmp/x", b"1"),
    "H002 two slashes": ([F("//tmp/x", b"1")], "tmp/x", b"1"),
    "H003 absolute symlink": ([D("etc"), S("localetc", "/etc"), F("localetc/x", b"1")], "etc/x", b"1"),
    "H003 relative symlink": ([S("l", "../../../etc"), F("l/x", b"1")], "etc/x", b"1"),
    "H003 to the root": ([S("l", "/"), F("l/x", b"1")], "x", b"1"),
    "H004 two hops": (
        [D("inner"), S("inner/go_up", ".."), S("inner/go_up/escape", "../victim"), F("inner/go_up/escape/new", b"1")],
        "victim/new",
        b"1",
    ),
    "H005 at the root": ([S("a", "b/.."), S("b", ".."), F("a/evil", b"1")], "evil", b"1"),
    "H006 current, first": ([S("current", "."), S("parent", "current/.."), F("parent/evil", b"1")], "evil", b"1"),
    "H006 current, second": ([S("current", "."), S("current/parent", ".."), F("parent/evil", b"1")], "evil", b"1"),
    "H011 hard link through a link": (
        [D("etc"), F("etc/p", b"1"), D("b"), S("b/d1", "../../etc"), H("b/mine", "/b/d1/p")],
        "b/mine",
        b"1",
    ),
    "H016 symlink replaces a directory": (
        [D("foo"), D("foo/tmp"), F("foo/tmp/b", b"1"), S("foo", "/"), F("foo/tmp/b", b"2"), D("foo"), D("foo/tmp")]
        + [F("foo/tmp/b", b"3")],
        "foo/tmp/b",
        b"3",
    ),
    "H018 a file as parent": ([F("nondir", b"1"), F("nondir/foo/bar", b"2")], "nondir/foo/bar", b"2"),
    "H018 a link to a file as parent": ([F("f", b"1"), S("l", "f"), F("l/x", b"2")], "f/x", b"2"),
    "H019 magic links": ([S("l", "/proc/self/root"), F("l/x", b"1")], "proc/self/root/x", b"1"),
    "H066 spellings": ([F("./a//b/./c", b"1"), F("a/b/c", b"2")], "a/b/c", b"2"),
    "H067 backslash": ([F("..\\..\\x", b"1")], "..\\..\\x", b"1"),
    "H067 no UTF-8": ([F(b"\xff\xfe\n\x07", b"1")], "\udcff\udcfe\n\x07", b"1"),
    "dangling": ([S("l", "/not/there"), F("l/x", b"1")], "not/there/x", b"1"),
    "dangling, and up": ([S("l", "dne/../etc"), F("l/x", b"1")], "etc/x", b"1"),
    "P2 kept verbatim": ([S("l", "../../../../etc/passwd")], "l", b"../../../../etc/passwd"),
    "P3 absolute hard link": ([F("a", b"1"), H("b", "/a")], "b", b"1"),
    "255 bytes": ([F("n" * 255, b"1")], "n" * 255, b"1"),
}


@pytest.mark.parametrize("name", CONTAINED)
def test_contained(chain: Chain, name: str) -> None:
    entries, where, content = CONTAINED[name]
    chain.apply(*entries)
    assert chain.read(where) == content


@pytest.mark.parametrize("links", [255, 256])
def test_255_links_are_followed(chain: Chain, links: int) -> None:
    entries = [*[S(f"l{i}", f"l{i + 1}") for i in range(links)], D(f"l{links}"), F("l0/x", b"1")]
    if links == 255:
        chain.apply(*entries)
        assert chain.read("l255/x") == b"1"
    else:
        with pytest.raises(UnsafeEntryError, match="too many symbolic links"):
            chain.apply(*entries)


def test_few_descriptors_are_held(tmp_path: Path) -> None:
    root_fd = os.open(tmp_path, os.O_RDONLY)
    tree = OwnTree(root_fd)
    try:
        before = len(open_descriptors())
        deep = tree.root
        for number in range(300):
            tree.fd(tree.make_directory(tree.root, b"%d" % number))
        for _ in range(300):
            deep = tree.make_directory(deep, b"d")
        assert os.path.samestat(os.fstat(tree.fd(deep)), os.stat(tmp_path / "/".join("d" * 300)))
        held = tree.fd(tree.root.children[b"0"])
        tree.fd(deep)
        tree.fd(tree.root.children[b"1"])
        os.fstat(held)
        assert len(open_descriptors()) - before <= 128
    finally:
        tree.close()
        os.close(root_fd)


def test_a_dangling_links_detour_leaves_no_directory(chain: Chain) -> None:
    chain.apply(S("l", "dne/../etc"), F("l/x"))
    assert "dne" not in chain.names()


def test_path_max_games_are_moot(chain: Chain) -> None:
    """H007: realpath gives up on the path, descriptors don't."""
    entries, path = [], ""
    for letter in "abcdefghijklmnop":
        entries += [D(path + "d" * 200), S(path + letter, "d" * 200)]
        path += letter + "/"
    entries += [S(path + "l" * 200, "../" * 16), S("escape", path + "l" * 200 + "/.."), F("escape/flag", b"in")]
    chain.apply(*entries)
    assert chain.read("flag") == b"in"


def test_the_working_directory_is_no_bait(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H013: a hard link's target is never looked for in the process's own directory."""
    monkeypatch.chdir(tmp_path / "victim")
    with pytest.raises(InvalidArchiveError):
        chain.apply(H("x", "hello"))


def test_hard_links_do_not_follow_and_change_nothing(chain: Chain, tmp_path: Path) -> None:
    """H012: the link's own inode, and none of the entry's metadata reaches it (CVE-2021-32760)."""
    target = str(tmp_path / "victim" / "hello")
    chain.apply(S("link", target, mtime=5), H("sketchy", "link", mode=0o777, uid=9, mtime=9), F("f", mode=0o600))
    chain.apply(H("g", "f", mode=0o4777, uid=9, mtime=9))
    link, sketchy = chain.node("link"), chain.node("sketchy")
    assert link and sketchy and sketchy.is_symlink and link.stat.st_ino == sketchy.stat.st_ino
    assert link.stat.st_mtime_ns == 5 * 10**9
    node = chain.node("g")
    assert node and (node.permissions, node.stat.st_mtime_ns) == (0o600, 0)


def test_a_deep_tree(chain: Chain) -> None:
    """A thousand levels, replaced as a whole: no recursion, and descriptors are few."""
    deep = "/".join("d" * 900)
    chain.apply(F(deep + "/x", b"1"), H("x", deep + "/x"), H(deep + "/y", "x"))
    assert chain.read(deep + "/y") == b"1"
    applied = chain.apply(F(deep + "/z"), F("d", b"file"))
    assert chain.names() == ["d", "x"]
    assert (applied.inodes, applied.size_bytes) == (2, 4)
