"""A merged view as an ordinary directory tree, where a mount is not possible or a tree of one's own is wanted."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator

from imgpull.errors import AlreadyExistsError, StoreError
from imgpull.store.filesystem import translated
from imgpull.store.snapshots.copying import copy_node, finish_directory, remove_acls
from imgpull.store.snapshots.descriptors import Descriptors
from imgpull.store.snapshots.layer import LayerTree, TreePath
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.node import Node
from imgpull.store.snapshots.removal import empty_directory

__all__ = ["materialise", "unpack_into"]

_log = logging.getLogger("imgpull.store.snapshots")
_CANNOT_LINK = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})
"""Another file system, too many links (65 000 on ext4), or one that has none: a copy does instead."""


def materialise(tree: MergedTree, target: str | os.PathLike[str], *, link: bool) -> list[TreePath]:
    """Make the merged view in ``target``, an existing empty directory, which gets the root's attributes.

    ``link=True`` makes non-directories hard links to the layers' own files: quick and small, but writing to one
    writes to the store. For trees the store itself owns only. ``link=False`` shares nothing, except extents where the
    file system can; files that were hard links of one another within a layer are so again.

    Returns the paths left out: devices, without CAP_MKNOD. Raises OSError; what was made by then stays.
    """
    filling = _Filling(tree, os.path.realpath(target), link=link)
    with contextlib.closing(filling):
        return filling.run()


def unpack_into(tree: MergedTree, target: str | os.PathLike[str]) -> list[TreePath]:
    """:func:`materialise` a tree of its own in ``target``, which is made if missing and must be empty.

    Raises AlreadyExistsError where it holds anything or another call is filling it, StoreError otherwise. After an
    error it is as empty as before.
    """
    place = os.fspath(target)
    with translated("unpack into", place):
        made = _make_target(place)
        with _claimed(place) as fd:
            try:
                return materialise(tree, place, link=False)
            except BaseException:
                empty_directory(fd)
                if made:
                    os.rmdir(place)
                raise


def _make_target(place: str) -> bool:
    if os.path.isdir(place):
        return False
    os.makedirs(place)
    return True


@contextlib.contextmanager
def _claimed(place: str) -> Iterator[int]:
    """Holds the directory against another unpack into it, so that cleaning up after one never removes the other's."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyExistsError(
                f"{place} is being filled by another unpack: choose another directory", key=place, path=place
            ) from error
        if os.listdir(fd):
            raise AlreadyExistsError(
                f"{place} is not empty: unpack into an empty or new directory", key=place, path=place
            )
        yield fd
    finally:
        os.close(fd)


class _Filling:
    """One run of :func:`materialise`."""

    def __init__(self, tree: MergedTree, target: str, *, link: bool) -> None:
        self._tree = tree
        self._target = target
        self._link = link
        # The target seen as a single layer: the same bounded table of descriptors serves for writing.
        self._places = Descriptors([LayerTree(target)])
        self._directories: list[Node] = []
        self._first: dict[tuple[int, int], TreePath] = {}
        self._left_out: list[TreePath] = []

    def run(self) -> list[TreePath]:
        with self._places.lock:
            self._open_root()
            for node in self._tree.walk():
                if node.is_directory:
                    self._directories.append(node)
                if node.path:
                    self._make(node)
            # Contents change a directory's times, and a read-only one takes no contents: so last, the deepest first.
            for node in reversed(self._directories):
                finish_directory(node, self._places.get(0, node.path))
        if self._left_out:
            _log.info("left out %d devices of %s: making them needs CAP_MKNOD", len(self._left_out), self._target)
        return self._left_out

    def _open_root(self) -> None:
        if self._tree.lookup(()) is None:
            raise StoreError("a merged view without layers has no root: nothing to unpack", path=self._target)
        fd = self._places.get(0, ())
        remove_acls(fd)
        os.fchmod(fd, stat.S_IRWXU)

    def _make(self, node: Node) -> None:
        fd = self._places.get(0, node.path[:-1])
        if not node.is_directory and (self._linked_to_layer(node, fd) or self._linked_to_first(node)):
            return
        if not copy_node(node, fd, node.name):
            self._left_out.append(node.path)
        elif not node.is_directory and node.stat.st_nlink > 1:
            self._first[node.layer, node.stat.st_ino] = node.path

    def _linked_to_layer(self, node: Node, fd: int) -> bool:
        if not self._link or node.lifted:
            return False
        try:
            node.link_to(fd, node.name)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return False
        return True

    def _linked_to_first(self, node: Node) -> bool:
        """Whether this is a second name of a file already copied, and now a hard link to that copy."""
        first = self._first.get((node.layer, node.stat.st_ino))
        if first is None:
            return False
        # A duplicate: looking up the second directory may close the first one's descriptor.
        fd = os.dup(self._places.get(0, first[:-1]))
        try:
            here = self._places.get(0, node.path[:-1])
            os.link(first[-1], node.name, src_dir_fd=fd, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(fd)
        return True

    def close(self) -> None:
        self._places.close()
