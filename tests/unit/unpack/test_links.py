"""Hard links into lower layers."""

from __future__ import annotations

import errno
import os

import pytest

from fakes.archives import Chain, D, F, H, P, S
from imgpull.errors import (
    InvalidArchiveError,
    UnsafeEntryError,
)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="the layer below is root's")
def test_a_copy_is_one_that_its_owner_can_read(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "other device")

    chain.apply(F("a", b"secret", mode=0), P("p"))
    monkeypatch.setattr("imgpull.store.snapshots.node.Node.link_to", refuse)
    chain.apply(H("b", "a"), H("q", "p"), privileged=False)
    node = chain.node("b")
    assert node and node.permissions == 0 and node.lifted
    assert os.stat(os.path.join(chain.layers[-1].root, "b")).st_mode & 0o777 == 0o400
    assert inodes(chain, "p", "q") == 1


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
