"""When bytes count as stored: ``"full"`` (what was committed survives a power cut) or ``"none"`` (a crash of this
process at most; for throw-away stores, tests and builds).

The order is always: data synced → rename or link → directory synced → metadata commit. Callers name the steps, and one
of the two classes here decides what a step does, so the order is written once and can't differ between the two.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, Protocol

__all__ = ["SYNCS", "Durability", "FullSync", "NoSync", "Sync"]

Durability = Literal["full", "none"]

_F_FULLFSYNC = 51
"""<sys/fcntl.h> on macOS, where fsync leaves the data in the drive's own buffer."""


class Sync(Protocol):
    """The three things that can be made durable. Each raises OSError.

    After an error the pages count as clean though they never reached the disk, and the next fsync "succeeds"
    (PostgreSQL's fsyncgate): whoever gets one throws the file away and never syncs it again.
    """

    def data(self, fd: int) -> None:
        """The contents and size of one open file."""

    def directory(self, path: str | os.PathLike[str]) -> None:
        """The names in one directory."""

    def filesystem(self, fd: int) -> None:
        """Everything written so far on the file system that ``fd`` lies on: one call for a tree of any size.

        Measured on a pull of 913 MB: fsync per file and directory 8.5 times the cost of no sync, one syncfs 1.27."""


class FullSync:
    """Really syncs."""

    __slots__ = ()

    def data(self, fd: int) -> None:
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(fd, _F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def directory(self, path: str | os.PathLike[str]) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def filesystem(self, fd: int) -> None:
        _syncfs()(fd)


class NoSync:
    """Does nothing: the kernel writes when it likes."""

    __slots__ = ()

    def data(self, fd: int) -> None:
        pass

    def directory(self, path: str | os.PathLike[str]) -> None:
        pass

    def filesystem(self, fd: int) -> None:
        pass


SYNCS: Mapping[str, Sync] = MappingProxyType({"full": FullSync(), "none": NoSync()})
"""By the value of ``Store(durability=…)``."""


@functools.cache
def _syncfs() -> Callable[[int], None]:
    """syncfs(2), which CPython does not offer; ``sync`` where the system has none."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        return lambda fd: os.sync()

    def syncfs(fd: int) -> None:
        # Since Linux 5.8 it reports write-back errors; earlier ones are silent, and then fdatasync of the blobs is
        # what notices a failing disk.
        if libc.syncfs(ctypes.c_int(fd)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return syncfs
