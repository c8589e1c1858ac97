"""The layer's own tree while it is being written: a private directory, every call relative to a descriptor in it.

Only base names reach the kernel, so what was checked is what is used: checks of strings always lose.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

from imgpull.store.snapshots.layer import TreePath
from imgpull.unpack.metadata import Attributes

__all__ = ["Directory", "Inode", "OwnTree"]

Inode = tuple[int, int]
"""Device and number."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o700
"""Of a directory until its own mode is set at the end: things can be made in it whatever that is, and a setgid bit
would change their group."""
_CHILDLESS: Mapping[bytes, Directory] = MappingProxyType({})
"""Most directories have no directory in them; a dictionary for each would be a sixth of what a layer of 2·10⁵ costs."""
_HELD = 128
_KEPT_OF_A_CHAIN = 32
"""So that opening one deep directory can't close another one that the same call needs."""


class Directory:
    """A directory that the layer's own tree has on disk."""

    __slots__ = ("attributes", "below", "children", "name", "parent")

    def __init__(self, parent: Directory | None, name: bytes, *, below: bool) -> None:
        self.parent = parent
        self.name = name
        self.children: Mapping[bytes, Directory] = _CHILDLESS
        self.attributes: Attributes | None = None
        """What its own entry says; None while it is only implied by what is in it."""
        self.below = below
        """Whether what lower layers have at this path shows through. False once something that is no directory
        stood here in this layer: that took the place of the lower directory with all its contents."""

    def adopt(self, child: Directory) -> None:
        if not isinstance(self.children, dict):
            self.children = {}
        self.children[child.name] = child

    def disown(self, name: bytes) -> Directory | None:
        return self.children.pop(name, None) if isinstance(self.children, dict) else None

    @property
    def path(self) -> TreePath:
        parts: list[bytes] = []
        where = self
        while where.parent is not None:
            parts.append(where.name)
            where = where.parent
        return tuple(reversed(parts))


class OwnTree:
    """Directories are mirrored in memory, everything else is only on disk; about 128 descriptors are held."""

    def __init__(self, root_fd: int, expected: dict[bytes, threading.Event] | None = None) -> None:
        self.expected = {} if expected is None else expected
        """Directories and symbolic links that other threads wait for, by canonical path; they may add some."""
        self.root = Directory(None, b"", below=True)
        self.size_bytes = 0
        """Of the regular files that are in the tree now."""
        self.inodes = 1
        self.modes: dict[TreePath, int] = {}
        """True modes of what could not keep them on disk, for :attr:`Journal.modes`."""
        self.copies: dict[TreePath, Inode] = {}
        """Names that are copies of lower inodes; one that is taken away is no longer here. (Comparing inode numbers
        would not tell: ext4 gives a freed one out again at once.)"""
        self.stand_ins: dict[TreePath, TreePath] = {}
        """Names that are to become hard links to these paths of the parents, and are empty files until then."""
        self._root_fd = root_fd
        self._held: OrderedDict[Directory, int] = OrderedDict()
        self._latest: Directory | None = None  # asked for last, and not opened since: the last of _held

    def fd(self, directory: Directory) -> int:
        """A descriptor of it, the tree's to close; stays open while two more directories are asked for."""
        fd = self._held.get(directory)
        if fd is not None:
            if directory is not self._latest:  # most entries lie where the one before did
                self._held.move_to_end(directory)
                self._latest = directory
            return fd
        self._latest = None
        return self._open(directory) if directory.parent is not None else self._root_fd

    def _open(self, directory: Directory) -> int:
        held = self._held
        chain: list[Directory] = []
        where = directory
        while where.parent is not None and where not in held:
            chain.append(where)
            where = where.parent
        fd = self._root_fd if where.parent is None else held[where]
        passing = -1
        for left in range(len(chain), 0, -1):
            try:
                fd = os.open(chain[left - 1].name, _DIRECTORY, dir_fd=fd)
            finally:
                if passing >= 0:
                    os.close(passing)
            passing = fd if left > _KEPT_OF_A_CHAIN else -1
            if passing < 0:
                held[chain[left - 1]] = fd
        while len(held) > _HELD:
            os.close(held.popitem(last=False)[1])
        return fd

    def close(self) -> None:
        """Close every descriptor but the root's, which is the caller's; what is needed again is opened again."""
        while self._held:
            os.close(self._held.popitem()[1])

    # -- looking -------------------------------------------------------------------------------------------------

    def link_target(self, directory: Directory, name: bytes) -> bytes | None:
        """Target of a symbolic link of this layer; empty for another kind of entry, None where there is none."""
        try:
            return os.readlink(name, dir_fd=self.fd(directory))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return b""

    def state(self, path: TreePath) -> Directory | bool:
        """What is at ``path``: a directory; True for anything else, there or instead of a parent; False, nothing."""
        where = self.root
        for part in path:
            child = where.children.get(part)
            if child is None:
                return self.link_target(where, part) is not None
            where = child
        return where

    # -- changing ------------------------------------------------------------------------------------------------

    def make_directory(self, parent: Directory, name: bytes) -> Directory:
        """A new directory, in place of whatever else of this layer is there."""
        below = parent.below
        fd = self.fd(parent)
        try:
            os.mkdir(name, _PRIVATE, dir_fd=fd)
        except FileExistsError:
            self.clear(parent, name)
            below = False
            os.mkdir(name, _PRIVATE, dir_fd=fd)
        self.inodes += 1
        directory = Directory(parent, name, below=below)
        parent.adopt(directory)
        if self.expected:
            self.appeared(parent, name)
        return directory

    def appeared(self, parent: Directory, name: bytes) -> None:
        """A directory or symbolic link is there now, and whoever waited for it may look."""
        event = self.expected.pop(b"/".join((*parent.path, name)), None)
        if event is not None:
            event.set()

    def clear(self, parent: Directory, name: bytes) -> None:
        """Take away what this layer has at that name, with all that is in it. Links are never followed."""
        child = parent.disown(name)
        if child is None:
            self._unlink(parent, self.fd(parent), name)
            return
        # Children first, without recursion: image trees can be a thousand levels deep.
        pending = [child]
        order: list[Directory] = []
        while pending:
            order.append(pending.pop())
            pending.extend(order[-1].children.values())
        for directory in reversed(order):
            fd = self.fd(directory)
            for other in os.listdir(fd):
                self._unlink(directory, fd, os.fsencode(other))
            os.close(self._held.pop(directory))
            assert directory.parent is not None
            os.rmdir(directory.name, dir_fd=self.fd(directory.parent))
            self.inodes -= 1

    def _unlink(self, parent: Directory, fd: int, name: bytes) -> None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        os.unlink(name, dir_fd=fd)
        if status.st_nlink == 1:
            self.inodes -= 1
            if stat.S_ISREG(status.st_mode):
                self.size_bytes -= status.st_size
        if self.modes or self.copies or self.stand_ins:
            path = (*parent.path, name)
            self.modes.pop(path, None)
            self.copies.pop(path, None)
            self.stand_ins.pop(path, None)
