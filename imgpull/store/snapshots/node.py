"""One entry of the merged view."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from imgpull.store.snapshots.descriptors import Descriptors
from imgpull.store.snapshots.layer import TreePath

__all__ = ["Node"]

_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC


class Node:
    """One entry of the merged view. A value with a way back to its file: valid until its tree is closed."""

    __slots__ = ("_descriptors", "layer", "path", "stat")

    def __init__(self, descriptors: Descriptors, path: TreePath, layer: int, status: os.stat_result) -> None:
        self._descriptors = descriptors
        self.path = path
        self.layer = layer
        """Index of the layer that gives it, 0 for the bottom one. With ``stat.st_ino`` it tells hard links."""
        self.stat = status
        """As ``lstat`` gives it, with the permission bits the image asked for (:attr:`Journal.modes`)."""

    @property
    def name(self) -> bytes:
        """Last component; empty for the root."""
        return self.path[-1] if self.path else b""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.stat.st_mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.stat.st_mode)

    @property
    def permissions(self) -> int:
        """Mode without the file type: ``0o7777`` at most."""
        return stat.S_IMODE(self.stat.st_mode)

    @property
    def lifted(self) -> bool:
        """Whether the mode on disk is wider than the true one in :attr:`stat`: such a file must not be hard linked."""
        return self.path in self._descriptors.layers[self.layer].modes

    @contextmanager
    def _place(self) -> Iterator[tuple[int, bytes]]:
        # The root is named by "." below its own descriptor, everything else below its parent's.
        with self._descriptors.lock:
            yield self._descriptors.get(self.layer, self.path[:-1]), self.name or b"."

    def readlink(self) -> bytes:
        """Target of a symbolic link, verbatim. OSError(EINVAL) for anything else."""
        with self._place() as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def open(self, flags: int = os.O_RDONLY) -> int:
        """A descriptor of its own, the caller's to close. Never follows a link and never blocks on a FIFO.

        Opening a device acts on it: look at :attr:`is_regular` first. Raises OSError(EROFS) where ``flags`` would
        write, since a committed layer never changes."""
        if flags & _WRITING:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(b"/".join(self.path)))
        with self._place() as (fd, name):
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)

    def link_to(self, directory_fd: int, name: bytes) -> None:
        """Make ``name`` in ``directory_fd`` a hard link to this very inode. Only for trees the store owns."""
        with self._place() as (fd, source):
            os.link(source, name, src_dir_fd=fd, dst_dir_fd=directory_fd, follow_symlinks=False)

    def xattrs(self) -> dict[bytes, bytes]:
        """Extended attributes, of the link itself where it is one; empty where the system or file system has none."""
        if sys.platform != "linux":
            return {}
        with self._place() as (fd, name):
            # The calls take no dir_fd, and opening a FIFO or a device to ask it is out of the question.
            location = b"/proc/self/fd/%d/%b" % (fd, name)
            try:
                names = os.listxattr(location, follow_symlinks=False)
                return {os.fsencode(key): os.getxattr(location, key, follow_symlinks=False) for key in names}
            except OSError as error:
                if error.errno in (errno.ENOTSUP, errno.ENOSYS):
                    return {}
                raise

    def __repr__(self) -> str:
        return f"Node({b'/'.join(self.path)!r}, layer={self.layer}, mode={stat.filemode(self.stat.st_mode)})"
