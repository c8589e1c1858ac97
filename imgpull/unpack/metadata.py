"""Owner, mode, times and extended attributes of what was just written, by descriptor or relative to one.

What the process may not do, and policy leaves out, is counted in :attr:`Metadata.skipped` and never fails a layer;
what policy refuses (attributes that are instructions to overlayfs) does.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from imgpull.errors import StoreError
from imgpull.store.snapshots.copying import HOST_XATTRS, OVERLAY_XATTRS
from imgpull.store.snapshots.node import Node
from imgpull.unpack.entry import NO_XATTRS, Entry
from imgpull.unpack.refusals import invalid, unsafe

__all__ = ["DEFAULT_DIRECTORY", "Attributes", "Metadata", "attributes_of"]

_PRIVILEGED = (b"security.", b"trusted.")
_NOT_SUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_TOO_LARGE = (errno.ENOSPC, errno.E2BIG)
_SHOWN_CHARACTERS = 200
_NOT_PERMITTED = (errno.EPERM, errno.EACCES)


class Attributes(NamedTuple):
    """What a directory entry says, kept until the directory has got all that is in it."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes]


DEFAULT_DIRECTORY = Attributes(0o755, 0, 0, 0, NO_XATTRS)
"""Of a directory that no layer has an entry for."""


def attributes_of(source: Entry | Node) -> Attributes:
    """From a tar entry, or from what a lower layer has, less what an archive would not be allowed to say."""
    if isinstance(source, Entry):
        return Attributes(source.mode, source.uid, source.gid, source.mtime_ns, source.xattrs)
    status = source.stat
    left_out = (*OVERLAY_XATTRS, *HOST_XATTRS)
    xattrs = {name: value for name, value in source.xattrs().items() if not name.startswith(left_out)}
    return Attributes(source.permissions, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


class Metadata:
    """Sets what the process is allowed to set; ``born`` is who owns what it makes."""

    def __init__(self, root_fd: int, layer: str, *, privileged: bool) -> None:
        self.privileged = privileged
        self.skipped: Counter[str] = Counter()
        """What was left out, by reason, with the number of entries (or attributes)."""
        self._layer = layer
        self._root_fd = root_fd
        status = os.fstat(root_fd)
        # Under a setgid directory or the bsdgroups mount option the group is the parent's, else our own; where both
        # say the same, files of that owner need no chown.
        same = status.st_gid == os.getegid() and not status.st_mode & stat.S_ISGID
        self._born = (os.geteuid(), os.getegid()) if same else (-1, -1)

    def finish_file(self, fd: int, entry: Entry) -> int | None:
        """All of a regular file's. Returns the true mode where the disk has to have another one, else None."""
        _, _, mode, uid, gid, mtime_ns, _, _, _, _, xattrs = entry  # no Attributes between: there are 30 000 of them
        return self._finish(fd, mode, uid, gid, mtime_ns, xattrs, entry.name, stat.S_IRUSR)

    def finish_directory(self, fd: int, wanted: Attributes, name: bytes) -> int | None:
        """All of a directory's, once nothing more is made in it."""
        return self._finish(fd, *wanted, name, stat.S_IRUSR | stat.S_IXUSR)

    def _finish(
        self,
        fd: int,
        mode: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        xattrs: Mapping[bytes, bytes],
        name: bytes,
        readable: int,
    ) -> int | None:
        # The order matters: chown clears setuid bits and capabilities, and utime is last since all else sets times.
        if (uid, gid) != self._born and self._may_own():
            with self._owner(uid, gid, name):
                os.fchown(fd, uid, gid)
        if xattrs:
            self._set_xattrs(fd, xattrs, name)
        # Without privileges mode 000 would lock us out of the store's own tree: see Journal.modes.
        kept = mode if self.privileged else mode | readable
        os.fchmod(fd, kept)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        return None if kept == mode else mode

    def finish_special(self, directory_fd: int, base: bytes, wanted: Attributes, name: bytes, *, link: bool) -> None:
        """A symbolic link (which has no mode of its own), FIFO or device: named, never opened, never followed."""
        mode, uid, gid, mtime_ns, xattrs = wanted
        if (uid, gid) != self._born and self._may_own():
            with self._owner(uid, gid, name):
                os.chown(base, uid, gid, dir_fd=directory_fd, follow_symlinks=False)
        if xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%b" % (directory_fd, base), xattrs, name)
        if not link:
            _chmod_unopened(directory_fd, base, mode)
        os.utime(base, ns=(mtime_ns, mtime_ns), dir_fd=directory_fd, follow_symlinks=False)

    def _may_own(self) -> bool:
        if not self.privileged:
            self.skipped["owners (not root)"] += 1
        return self.privileged

    @contextmanager
    def _owner(self, uid: int, gid: int, name: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            shown = os.fsdecode(name)
            what = f"owner {uid}:{gid} can't be set: map it in this user namespace"
            raise StoreError(f"layer {self._layer}, entry {shown!r}: {what}") from error

    def _set_xattrs(self, target: int | bytes, xattrs: Mapping[bytes, bytes], name: bytes) -> None:
        for key, value in xattrs.items():
            if key.startswith(OVERLAY_XATTRS):
                raise unsafe(self._layer, name, f"has the attribute {os.fsdecode(key)!r}, an instruction to overlayfs")
            if key in HOST_XATTRS:
                self.skipped["xattrs of the build host's policy (selinux, ima, evm)"] += 1
            elif not self.privileged and key.startswith(_PRIVILEGED):
                self.skipped["xattrs (not root)"] += 1
            elif sys.platform != "linux":
                self.skipped["xattrs (not supported)"] += 1
            else:
                self._set_xattr(target, key, value, name)

    def _set_xattr(self, target: int | bytes, key: bytes, value: bytes, name: bytes) -> None:
        try:
            os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno in _NOT_SUPPORTED or (error.errno in _TOO_LARGE and self._has_space()):
                self.skipped["xattrs (not supported)"] += 1
            elif error.errno in _NOT_PERMITTED:
                self.skipped["xattrs (not permitted)"] += 1
            elif error.errno in (errno.EINVAL, errno.ERANGE):
                shown = os.fsdecode(key)[:_SHOWN_CHARACTERS]
                raise invalid(self._layer, name, f"has the attribute {shown!r}, which the kernel refuses") from error
            else:
                raise

    def _has_space(self) -> bool:
        # ext4 answers ENOSPC both to a full disk and to attributes that don't fit in the one block it has for them.
        free = os.fstatvfs(self._root_fd)
        return free.f_bavail > 0 and (free.f_files == 0 or free.f_favail > 0)


def _chmod_unopened(directory_fd: int, base: bytes, mode: int) -> None:
    """chmod of something that must not be opened. Linux before 6.6 has no chmod that follows no link, but the
    descriptor of an O_PATH open is no link to anywhere else."""
    fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
