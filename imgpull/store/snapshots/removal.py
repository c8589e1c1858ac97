"""Removing a tree that an image filled: by descriptors, never following, however deep, whatever the modes.

``shutil.rmtree`` recurses (it dies at about a thousand levels) and can't enter its own user's directory of mode 000.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from imgpull.errors import StoreError

__all__ = ["empty_directory", "remove_at", "remove_tree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEVELS = 64
"""Descriptors held at once. A deeper directory is first moved up to the top of the tree being removed, so neither
the depth nor the length of a path is limited, and nothing has to be found again through ``..``."""
_OWNER = stat.S_IRWXU


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove whatever is at ``path``; a symbolic link there is removed itself. Nothing there is no error.

    Raises StoreError where another file system is mounted inside, OSError for what the kernel refuses.
    """
    parent, name = os.path.split(os.path.abspath(os.fspath(path)))
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_at(fd, os.fsencode(name))
        finally:
            os.close(fd)


def remove_at(directory_fd: int, name: bytes) -> None:
    """Remove the entry ``name`` of an open directory, with all that is below it. Raises as :func:`remove_tree`,
    and FileNotFoundError where there is none."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory_fd)
        return
    fd = _enter(directory_fd, name)
    try:
        empty_directory(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory_fd)


def empty_directory(fd: int) -> None:
    """Remove everything in an open directory, which stays. Raises as :func:`remove_tree`."""
    _make_usable(fd)
    _Emptying(fd).run()


class _Emptying:
    """One removal: a stack of open directories, the top of the tree first, each with the names it still has."""

    def __init__(self, fd: int) -> None:
        self._device = os.fstat(fd).st_dev
        self._fds = [fd]
        self._names: list[list[bytes]] = [_unlink_files(fd)]
        self._entered: list[bytes] = []
        self._moved = 0

    def run(self) -> None:
        try:
            while not self._done():
                if self._names[-1]:
                    self._descend(self._names[-1].pop())
                else:
                    self._leave()
        finally:
            while len(self._fds) > 1:
                os.close(self._fds.pop())

    def _done(self) -> bool:
        if len(self._fds) == 1 and not self._names[0]:
            # Directories that were too deep have come up here, and somebody may have added a file meanwhile.
            self._names[0] = _unlink_files(self._fds[0])
            return not self._names[0]
        return False

    def _descend(self, name: bytes) -> None:
        parent = self._fds[-1]
        try:
            fd = _enter(parent, name)
        except FileNotFoundError:
            return
        try:
            if os.fstat(fd).st_dev != self._device:
                where = os.fsdecode(b"/".join([*self._entered, name]))
                raise StoreError(f"{where}: another file system is mounted there: unmount it, then remove", path=where)
            if len(self._fds) >= _LEVELS:
                self._move_up(parent, name)
                os.close(fd)
                return
            names = _unlink_files(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fds.append(fd)
        self._names.append(names)
        self._entered.append(name)

    def _leave(self) -> None:
        os.close(self._fds.pop())
        self._names.pop()
        with contextlib.suppress(FileNotFoundError):
            name = self._entered.pop()
            try:
                os.rmdir(name, dir_fd=self._fds[-1])
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._names[-1].append(name)

    def _move_up(self, parent: int, name: bytes) -> None:
        while True:
            self._moved += 1
            try:
                os.rename(name, b"%d" % self._moved, src_dir_fd=parent, dst_dir_fd=self._fds[0])
                return
            except OSError as error:
                # The name is taken by something of the image's: try the next one.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise


def _unlink_files(fd: int) -> list[bytes]:
    """Unlink all that is no directory; the names of the directories."""
    directories = []
    with os.scandir(fd) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            directories.append(name)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
    return directories


def _enter(parent: int, name: bytes) -> int:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        _lift(parent, name)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _make_usable(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_usable(fd: int) -> None:
    """An owner other than root needs rwx on a directory to empty it."""
    status = os.fstat(fd)
    if status.st_mode & _OWNER != _OWNER and os.geteuid() != 0:
        os.fchmod(fd, _OWNER)


def _lift(parent: int, name: bytes) -> None:
    """Make a directory accessible that can't be opened. Never through a link: O_PATH needs no right to the directory
    itself, and what /proc names is the very inode it opened."""
    path_only = getattr(os, "O_PATH", None)
    if path_only is None:
        os.chmod(name, _OWNER, dir_fd=parent, follow_symlinks=False)
        return
    fd = os.open(name, path_only | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", _OWNER)
    finally:
        os.close(fd)
