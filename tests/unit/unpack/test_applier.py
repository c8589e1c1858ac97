"""Entries of every kind, what replaces what, and that nothing leads outside (hostile.md 1A)."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.archives import LAYER, LIMITS, C, Chain, D, F, H, P, S, archive, entry, pax, pieces
from fakes.trees import open_descriptors, read_tree
from imgpull.errors import (
    ImgpullError,
    InvalidArchiveError,
    LimitExceededError,
    RegistryUnavailableError,
    StoreError,
    StoreFullError,
    UnpackError,
    UnsafeEntryError,
)
from imgpull.store.snapshots.merged import MergedTree
from imgpull.unpack.applier import Applier
from imgpull.unpack.assumption import Parents
from imgpull.unpack.owntree import OwnTree
from imgpull.unpack.refusals import from_os_error
from imgpull.unpack.tar import TarReader

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sets owners")

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


# -- kinds and replacements -----------------------------------------------------------------------------------------

KINDS = {
    "file": lambda name: [F(name, b"new")],
    "directory": lambda name: [D(name, 0o700)],
    "symlink": lambda name: [S(name, "new")],
    "hardlink": lambda name: [F("other", b"linked"), H(name, "other")],
    "fifo": lambda name: [P(name)],
}
OLD = {
    "file": [F("x", b"old")],
    "directory": [D("x"), F("x/in", b"old"), D("x/deep"), F("x/deep/er", b"old")],
    "symlink": [D("t"), F("t/in", b"keep"), S("x", "t")],
    "hardlink": [F("o", b"old"), H("x", "o")],
    "fifo": [P("x")],
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", OLD)
def test_the_last_entry_of_a_name_wins(chain: Chain, old: str, new: str, layers: int) -> None:
    if layers == 1:
        chain.apply(*OLD[old], *KINDS[new]("x"))
    else:
        chain.apply(*OLD[old])
        chain.apply(*KINDS[new]("x"))
    node = chain.node("x")
    assert node is not None
    names = chain.names()
    if new == "directory":
        assert node.is_directory and node.permissions == 0o700
        assert ("x/deep/er" in names) == (old == "directory")
    else:
        assert not any(name.startswith("x/") for name in names)
    if new == "file":
        assert chain.read("x") == b"new"
    if new == "symlink":
        assert chain.read("x") == b"new"
    if new == "hardlink":
        other = chain.node("other")
        assert other and other.stat.st_ino == node.stat.st_ino
    if old == "symlink":
        assert chain.read("t/in") == b"keep"
    if old == "hardlink":
        assert chain.read("o") == b"old"


def test_what_took_a_directorys_place_took_its_contents(chain: Chain) -> None:
    chain.apply(F("d/below", b"1"))
    applied = chain.apply(F("d", b"file"), D("d"), F("d/own", b"2"))
    assert chain.names() == ["d", "d/own"]
    assert applied.journal.opaques == {(b"d",)}


def test_names_lead_elsewhere_once_a_link_is_replaced(chain: Chain) -> None:
    chain.apply(D("a"), D("b"), S("l", "a"), F("l/1"), S("l", "b"), F("l/2"), D("l"), F("l/3"), F("l", b""), F("l/4"))
    assert chain.names() == ["a", "a/1", "b", "b/2", "l", "l/4"]


def test_a_link_below_is_followed_and_a_directory_entry_replaces_it(chain: Chain) -> None:
    """P16 and P18."""
    chain.apply(D("usr"), D("usr/lib"), F("usr/lib/a", b"1"), S("lib", "usr/lib"))
    chain.apply(F("lib/b", b"2"), S("lib/c", "b"), D("lib/d"))
    assert chain.read("usr/lib/b") == b"2"
    assert chain.read("lib") == b"usr/lib"
    chain.apply(F("lib/e", b"3"), D("lib"), F("lib/f", b"4"))
    assert chain.names() == [
        *["lib", "lib/f", "usr", "usr/lib", "usr/lib/a", "usr/lib/b", "usr/lib/c", "usr/lib/d", "usr/lib/e"]
    ]


def test_own_links_lead_before_lower_ones(chain: Chain) -> None:
    chain.apply(D("a"), D("b"), S("l", "a"))
    chain.apply(S("l", "b"), F("l/x"))
    assert "b/x" in chain.names() and "a/x" not in chain.names()


@pytest.mark.parametrize("new", [F("l"), S("l", "b"), H("l", "f"), P("l"), D("l")])
def test_what_stands_where_a_lower_link_led_is_seen(chain: Chain, new: bytes) -> None:
    chain.apply(D("a"), D("b"), S("l", "a"), F("f"))
    chain.apply(F("l/1"), new, F("l/2"))
    assert "a/1" in chain.names() and "a/2" not in chain.names()


def test_a_link_to_a_lower_directory_is_refused(chain: Chain) -> None:
    chain.apply(D("d"))
    with pytest.raises(InvalidArchiveError) as caught:
        chain.apply(H("x", "d"))
    assert caught.value.entry == "x"


def test_counts(chain: Chain) -> None:
    applied = chain.apply(D("./"), D("d"), F("d/a", b"12345"), H("d/b", "d/a"), S("s", "d"), F("d/a", b"1"), F("x/y"))
    assert applied.entries == 7
    assert applied.size_bytes == 6  # both inodes: d/b still has the first
    assert applied.inodes == 7  # root d a b s x y
    assert applied.skipped == Counter({} if os.geteuid() == 0 else {"owners (not root)": 7})
    again = chain.apply(F("d/z", b"123"), F("d", b"1"))
    assert (again.size_bytes, again.inodes) == (1, 2)


def test_an_empty_layer(chain: Chain) -> None:
    applied = chain.apply()
    assert (applied.entries, applied.inodes, chain.names()) == (0, 1, [])
    root = chain.node("")
    assert root and root.permissions == 0o755 and root.stat.st_mtime_ns == 0


def test_large_files_arrive_in_pieces(chain: Chain) -> None:
    data = os.urandom(3 << 20)
    chain.apply(F("big", data), F("after", b"x"))
    assert chain.read("big") == data
    assert chain.read("after") == b"x"


# -- hard links into lower layers -----------------------------------------------------------------------------------


def inodes(chain: Chain, *names: str) -> int:
    found = set()
    for name in names:
        node = chain.node(name)
        assert node is not None, name
        found.add((node.layer, node.stat.st_ino))
    return len(found)


def test_a_link_into_a_lower_layer_brings_the_whole_group(chain: Chain) -> None:
    chain.apply(F("bin/perl", b"perl"), H("bin/perl5", "bin/perl"), F("bin/other"))
    applied = chain.apply(H("usr/perl", "bin/perl"))
    assert inodes(chain, "bin/perl", "bin/perl5", "usr/perl") == 1
    assert chain.own_names() == {"bin", "bin/perl", "bin/perl5", "usr", "usr/perl"}
    assert applied.size_bytes == 0
    chain.apply(F("usr/perl", b"new"))
    assert chain.read("bin/perl") == b"perl"


@pytest.mark.parametrize("turned", [False, True])
def test_a_link_to_what_this_layer_takes_away(chain: Chain, turned: bool) -> None:
    """A rename, as some builders write it: looked up before the whiteout, whatever the order."""
    chain.apply(F("d/old", b"1"), F("keep"))
    entries = [H("new", "d/old"), F("d/.wh.old")]
    chain.apply(*(entries[::-1] if turned else entries))
    assert chain.names() == ["d", "keep", "new"]
    assert chain.read("new") == b"1"


def test_a_target_that_this_layer_replaces_is_not_brought(chain: Chain) -> None:
    chain.apply(F("a", b"old"))
    chain.apply(H("b", "a"), F("a", b"new"))
    assert (chain.read("a"), chain.read("b")) == (b"new", b"old")


def test_a_target_below_what_took_its_directorys_place_is_gone(chain: Chain) -> None:
    chain.apply(F("d/a", b"old"))
    with pytest.raises(InvalidArchiveError):
        chain.apply(F("d"), H("b", "d/a"))
    chain.apply(H("b", "d/a"), F("d"), D("d"))
    assert chain.names() == ["b", "d"]


def test_links_through_lower_links(chain: Chain) -> None:
    chain.apply(F("usr/lib/a", b"1"), S("lib", "usr/lib"))
    chain.apply(H("lib/b", "/lib/a"))
    assert inodes(chain, "usr/lib/a", "usr/lib/b") == 1
    assert "lib/b" not in chain.own_names()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOTSUP])
def test_where_linking_is_impossible_the_group_is_one_copy(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    chain.apply(F("a", b"x" * 5000, mode=0o640, mtime=7), S("s", "a", mtime=8))
    monkeypatch.setattr("imgpull.store.snapshots.node.Node.link_to", refuse)
    applied = chain.apply(H("b", "a"), H("c", "a"), H("t", "s"))
    monkeypatch.undo()
    assert inodes(chain, "a", "b", "c") == 1
    assert inodes(chain, "s", "t") == 1
    node = chain.node("c")
    assert node and (node.permissions, node.stat.st_mtime_ns, node.layer) == (0o640, 7 * 10**9, 1)
    assert (chain.read("a"), chain.read("t")) == (b"x" * 5000, b"a")
    assert (applied.inodes, applied.size_bytes) == (3, 5000)


def test_a_copy_whose_name_was_replaced_is_not_linked(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "other device")

    chain.apply(F("a", b"lower"))
    monkeypatch.setattr("imgpull.store.snapshots.node.Node.link_to", refuse)
    chain.apply(H("b", "a"), F("b", b"own"), H("c", "a"))
    assert (chain.read("b"), chain.read("c"), chain.read("a")) == (b"own", b"lower", b"lower")
    assert inodes(chain, "a", "c") == 1


def test_too_many_hard_links_are_refused(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """H068."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(UnsafeEntryError, match="hard link more"):
        chain.apply(F("a"), H("b", "a"))


# -- errors of the system and of the source -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.ENAMETOOLONG, UnsafeEntryError),
        (errno.ELOOP, UnsafeEntryError),
        (errno.EMLINK, UnsafeEntryError),
        (errno.EIO, StoreError),
    ],
)
def test_system_errors_are_typed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[ImgpullError]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.write", fail)
    with pytest.raises(kind) as caught:
        chain.apply(F("etc/x", b"data"))
    monkeypatch.undo()
    assert type(caught.value) is kind
    assert "etc/x" in str(caught.value)
    if isinstance(caught.value, UnpackError):
        assert (caught.value.layer, caught.value.entry) == (LAYER, "etc/x")


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """The real thing: a tiny tmpfs."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs to mount a tmpfs")
    try:
        with pytest.raises(StoreFullError):
            Chain(tmp_path).apply(F("x", bytes(1 << 20)))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_short_writes_are_continued(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, data[:100]))
    chain.apply(F("x", b"0123456789" * 500))
    monkeypatch.undo()
    assert chain.read("x") == b"0123456789" * 500


def test_errors_of_the_source_pass_through(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield archive(F("x", bytes(3000)))[:1500]
        raise RegistryUnavailableError("gone", registry="example.com")

    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with (
            MergedTree([]) as lower,
            Applier(root_fd, Parents(lower), privileged=False, limits=LIMITS, layer=LAYER) as applier,
            pytest.raises(RegistryUnavailableError, match="gone"),
        ):
            applier.make(TarReader(broken(), LIMITS, LAYER))
    finally:
        os.close(root_fd)


def test_a_hostile_name_stays_on_one_line() -> None:
    error = from_os_error(LAYER, b"\x1b[2Jx\ny" + b"n" * 500, OSError(errno.EIO, "I/O error"))
    assert "\x1b" not in str(error) and "\n" not in str(error)
    assert len(str(error)) < 500


# -- against others ---------------------------------------------------------------------------------------------------


def ordinary_tree(root: Path) -> None:
    for name in ("bin", "etc/deep/er", "usr/share/ünïcode", "var/" + "long" * 40):
        (root / name).mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"#!" * 9000)
    os.chmod(root / "bin/tool", 0o4755)
    os.link(root / "bin/tool", root / "bin/same")
    (root / "etc/link").symlink_to("/etc/target")
    (root / "etc/dangling").symlink_to("../../nowhere")
    os.mkfifo(root / "etc/fifo", 0o640)
    os.chmod(root / "etc/fifo", 0o640)
    (root / "etc/deep/er/empty").touch()
    (root / "usr/share/ünïcode/ñ").write_text("x")
    os.chmod(root / "etc/deep", 0o700)
    for number, (where, directories, files) in enumerate(os.walk(root, topdown=False)):
        for name in [*directories, *files]:
            os.utime(os.path.join(where, name), (1_600_000_000 + number, 1_600_000_000 + number), follow_symlinks=False)
    os.utime(root, (1_500_000_000, 1_500_000_000))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are compared")
@pytest.mark.parametrize("writer", ["ustar", "pax", "gnu", "tar --format=gnu", "tar --format=posix"])
def test_an_ordinary_tree_comes_out_as_it_went_in(chain: Chain, tmp_path: Path, writer: str) -> None:
    source = tmp_path / "store" / "source"
    source.mkdir()
    ordinary_tree(source)
    expected = read_tree(source)
    if writer.startswith("tar"):
        if shutil.which("tar") is None:
            pytest.skip("needs GNU tar")
        data = subprocess.run([*writer.split(), "-C", source, "-cf", "-", "."], check=True, capture_output=True).stdout
    else:
        buffer = io.BytesIO()
        form = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}[writer]
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            tar.add(source, ".", filter=lambda info: None if writer == "ustar" and len(info.name) > 100 else info)
        data = buffer.getvalue()
    if writer == "ustar":
        expected = {name: found for name, found in expected.items() if len(name) < 100}
    chain.apply_tar(data)
    assert read_tree(Path(chain.layers[0].root)) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are compared")
def test_equals_what_gnu_tar_unpacks(chain: Chain, tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("needs GNU tar")
    data = archive(
        D("./", 0o711, mtime=11),
        D("a", 0o2755, uid=1, gid=2, mtime=12),
        F("a/f", b"1", mode=0o6755, uid=3, gid=4, mtime=13),
        S("a/s", "f", uid=5, gid=6, mtime=14),
        H("a/h", "a/f"),
        P("a/p", mode=0o620, uid=7, gid=8, mtime=15),
        C("a/c", 1, 3, mode=0o666, mtime=16),
        C("a/b", 7, 0, b"4", mode=0o660, gid=6, mtime=17),
        F("n" * 90 + "/" + "m" * 90, b"2", mtime=18),
    )
    theirs = tmp_path / "store" / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "-C", theirs, "-xpf", "-", "--numeric-owner"], input=data, check=True)
    chain.apply_tar(data)
    mine, other = (read_tree(where) for where in (Path(chain.layers[0].root), theirs))
    for tree in (mine, other):
        tree["n" * 90] = ()  # an implied parent: ours is of 1970, tar's of now
    assert mine == other


def test_thirty_two_thousand_entries(tmp_path: Path) -> None:
    """As many as the golang image has."""
    directories = [D(f"d{number}") for number in range(320)]
    files = [F(f"d{number % 320}/f{number}", b"x") for number in range(32_000)]
    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with (
            MergedTree([]) as lower,
            Applier(root_fd, Parents(lower), privileged=os.geteuid() == 0, limits=LIMITS, layer=LAYER) as applier,
        ):
            applier.make(TarReader(pieces(archive(*directories, *files), 1 << 18), LIMITS, LAYER))
            applied = applier.settle(lower)
    finally:
        os.close(root_fd)
    assert (applied.entries, applied.inodes, applied.size_bytes) == (32_320, 32_321, 32_000)


def test_entries_below_wrong_pax_names() -> None:
    """An entry() helper that would not write what it says would make the vectors above worthless."""
    assert entry("n" * 200)[:512] == pax({"path": "n" * 200})[:512]
