"""Holding a directory of the store while it is used, so that nobody removes it meanwhile.

A hold is a ``flock`` on the directory itself: shared by all who read it or build on it, exclusive for who fills or
removes it. It needs no file of its own, and it ends with its process, however that dies, so what a crash left behind
is told from what is in use by trying. Only removal rests on holds; what a snapshot *contains* never does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from imgpull.store.filesystem import make_directory
from imgpull.store.snapshots.removal import remove_tree

__all__ = ["Hold", "make_private", "remove_dead"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Hold:
    """One open, locked directory. Released once, by :meth:`release` or at the end of a ``with`` block."""

    __slots__ = ("_path", "fd")

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self.fd = fd

    @property
    def path(self) -> Path:
        return Path(self._path)

    @classmethod
    def take(cls, path: str | os.PathLike[str], *, exclusive: bool) -> Self | None:
        """Hold ``path``. A shared hold waits for an exclusive one to end, which never lasts; an exclusive one does not
        wait, and is None where anybody holds it.

        Raises FileNotFoundError where it is missing or was removed while we took it, OSError otherwise."""
        hold = cls(os.fspath(path), os.open(path, _DIRECTORY))
        try:
            if hold._lock(exclusive):
                hold._check_place()
                return hold
        except BaseException:
            hold.release()
            raise
        hold.release()
        return None

    def _check_place(self) -> None:
        """Between open and flock its last holder may have removed it, or moved it away and made another."""
        held, named = os.fstat(self.fd), os.stat(self._path, follow_symlinks=False)
        if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino):
            raise FileNotFoundError(f"{self._path} was replaced")

    def _lock(self, exclusive: bool) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let go. A second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            # A child forked meanwhile has the same open file: closing ours alone would leave the lock with it.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def make_private(parent: Path) -> Hold:
    """A new directory in ``parent``, mode 0700 with a name nobody can guess, held exclusively. Raises OSError."""
    while True:
        path = parent / os.urandom(16).hex()
        make_directory(path)
        with contextlib.suppress(FileNotFoundError):
            hold = Hold.take(path, exclusive=True)
            if hold is not None:
                return hold
        # remove_dead came between the two steps and took it for a dead one: make another.


def remove_dead(parent: Path, remove: Callable[[Path], None] = remove_tree) -> None:
    """Remove what lies in ``parent`` and nobody holds any more. Raises OSError."""
    for path in _entries(parent):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            hold = Hold.take(path, exclusive=True)
            if hold is not None:
                with hold:
                    remove(path)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
