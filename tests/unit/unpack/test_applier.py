"""Entries of every kind, and what replaces what."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from fakes.archives import Chain, D, F, H, P, S
from imgpull.errors import (
    InvalidArchiveError,
)

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
