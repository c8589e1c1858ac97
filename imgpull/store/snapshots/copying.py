"""Making one entry of a merged view again in another directory, with everything that belongs to it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping

from imgpull.store.snapshots.node import Node

__all__ = ["HOST_XATTRS", "OVERLAY_XATTRS", "copy_node", "finish_directory", "inherit_directory", "remove_acls"]

_BLOCK_BYTES = 1 << 20
_PRIVATE = 0o600
_SECTOR_BYTES = 512
"""Unit of ``st_blocks``, whatever the file system (stat(2))."""
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
"""What the names of instructions to overlayfs begin with."""
HOST_XATTRS = (b"security.selinux", b"security.ima", b"security.evm")
"""Labels by which a machine judges a file, left out as by umoci; the copy gets its own (policy P8)."""
_ACLS = ("system.posix_acl_default", "system.posix_acl_access")
_COPY_ELSEWHERE = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})
"""What copy_file_range says where this pair of file systems can't."""
_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES})


def copy_node(node: Node, directory_fd: int, name: bytes) -> bool:
    """Make ``name`` in ``directory_fd`` a copy of ``node`` that shares nothing with it but, where the file system
    can, its extents.

    A directory is made without its contents, private (0700): fill it, then call :func:`finish_directory`. Everything
    else gets its owner (as root), extended attributes, mode and times, in the order in which none undoes another.
    False where this process may not make it (a device without CAP_MKNOD): it was left out. Raises FileExistsError
    where the name is taken, OSError for what the kernel refuses.
    """
    status = node.stat
    if node.is_directory:
        os.mkdir(name, stat.S_IRWXU, dir_fd=directory_fd)
        return True
    if node.is_regular:
        _copy_regular(node, directory_fd, name)
        return True
    if node.is_symlink:
        os.symlink(node.readlink(), name, dir_fd=directory_fd)
    elif not _make_special(status, directory_fd, name):
        return False
    _set_owner(status, directory_fd, name)
    _set_xattrs(node.xattrs(), b"/proc/self/fd/%d/%b" % (directory_fd, name))
    if not node.is_symlink:
        # Not a link, it was made above in a directory nobody else can enter; and opening a device acts on it.
        os.chmod(name, node.permissions, dir_fd=directory_fd)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=directory_fd, follow_symlinks=False)
    return True


def finish_directory(node: Node, fd: int) -> None:
    """Give a filled directory the node's owner, extended attributes, mode and times."""
    _finish(node, fd, node.permissions)


def inherit_directory(node: Node, path: str | os.PathLike[str]) -> None:
    """:func:`finish_directory` for a directory yet to be filled: an owner other than root can still write to it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _finish(node, fd, node.permissions if os.geteuid() == 0 else node.permissions | stat.S_IRWXU)
    finally:
        os.close(fd)


def remove_acls(place: int | str | os.PathLike[str]) -> None:
    """Take the access lists off a directory, else what is made in it inherits them, whatever mode it is given."""
    if sys.platform == "linux":
        for name in _ACLS:
            with contextlib.suppress(OSError):
                os.removexattr(place, name)


def _copy_regular(node: Node, directory_fd: int, name: bytes) -> None:
    source = node.open()
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, _PRIVATE, dir_fd=directory_fd)
        try:
            _copy_bytes(source, target, node.stat)
            _finish(node, target, node.permissions)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _finish(node: Node, fd: int, permissions: int) -> None:
    status = node.stat
    if os.geteuid() == 0:
        os.fchown(fd, status.st_uid, status.st_gid)
    _set_xattrs(node.xattrs(), fd)
    # After chown, which clears setuid and setgid; and exact, since the umask has no say in fchmod.
    os.fchmod(fd, permissions)
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _set_owner(status: os.stat_result, directory_fd: int, name: bytes) -> None:
    if os.geteuid() == 0:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory_fd, follow_symlinks=False)


def _make_special(status: os.stat_result, directory_fd: int, name: bytes) -> bool:
    kind = stat.S_IFMT(status.st_mode)
    try:
        os.mknod(name, kind | _PRIVATE, status.st_rdev, dir_fd=directory_fd)
    except PermissionError:
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return False
        raise
    return True


def _set_xattrs(xattrs: Mapping[bytes, bytes], place: int | bytes) -> None:
    for key, value in xattrs.items():
        if key in HOST_XATTRS or key.startswith(OVERLAY_XATTRS):
            continue
        try:
            if isinstance(place, int):
                os.setxattr(place, key, value)
            else:
                os.setxattr(place, key, value, follow_symlinks=False)
        except OSError as error:
            # The target's file system has none, or this user may not set that one.
            if error.errno not in _UNSUPPORTED:
                raise


def _copy_bytes(source: int, target: int, status: os.stat_result) -> None:
    size = status.st_size
    if status.st_blocks * _SECTOR_BYTES >= size:
        _copy_range(source, target, 0, size)
        return
    os.ftruncate(target, size)
    for start, end in _data_ranges(source, size):
        _copy_range(source, target, start, end)


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data: its holes stay holes, else a small image could fill the disk."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy bytes ``start`` to ``end`` to the same place: shared extents or in the kernel where possible."""
    position = start
    while position < end:
        try:
            count = os.copy_file_range(source, target, end - position, position, position)
        except OSError as error:
            if error.errno not in _COPY_ELSEWHERE:
                raise
            break
        if not count:
            break
        position += count
    while position < end:
        block = os.pread(source, min(_BLOCK_BYTES, end - position), position)
        if not block:
            raise OSError(errno.EIO, "file is shorter than it was")
        position += os.pwrite(target, block, position)
