"""One entry of a layer's tar, as a value that can't be wrong: numbers in range, names without NUL."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

__all__ = ["MAX_ID", "NO_XATTRS", "Entry", "Kind", "clamped_ns"]

Kind = Literal["file", "directory", "symlink", "hardlink", "char", "block", "fifo"]

MAX_ID = 2**32 - 2
"""Largest uid or gid: 2³²−1 is chown's "leave as it is" (CVE-2024-40635 is what comes of wrapping)."""
_SECOND_NS = 1_000_000_000
_EARLIEST_NS = -(2**31) * _SECOND_NS
"""1901, the earliest time ext4 and XFS store."""
_LATEST_NS = 2**63 - 1
"""2262, as containerd's ``boundTime``; utimensat takes more, but no file system stores it."""

NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})


class Entry(NamedTuple):
    """A tuple since 32 000 of them are made for one image: a frozen dataclass takes four times as long."""

    name: bytes
    """As in the archive, never normalised here."""
    kind: Kind
    mode: int
    """0o7777 at most."""
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int
    """Bytes of data that follow; 0 for everything but a file."""
    linkname: bytes
    devmajor: int
    devminor: int
    xattrs: Mapping[bytes, bytes]


def clamped_ns(seconds: int, nanoseconds: int = 0) -> int:
    """A time every file system of interest can store; never an OverflowError."""
    return min(max(seconds * _SECOND_NS + nanoseconds, _EARLIEST_NS), _LATEST_NS)
