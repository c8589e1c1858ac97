"""The merged view of a chain of layers, without any mount: what a container would see, looked up by descriptors.

Rules, from the top layer down (image-spec layer.md; overlayfs in the kernel's documentation says the same):

- the first layer that has an entry of that name gives the entry; a non-directory hides everything below it;
- directories of one name merge, and their attributes are those of the topmost;
- a whiteout hides the name in all lower layers, an opaque directory hides what lower layers have in it. Both hold
  where the layer that says so does not itself contain the directory.

A lookup never follows a symbolic link by itself and never names more than one component to the kernel, so nothing in
a layer can lead it outside (hostile-image catalogue H020, H021); :meth:`MergedTree.resolve` follows links, inside the
root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from imgpull.store.snapshots.descriptors import Descriptors
from imgpull.store.snapshots.layer import LayerTree, TreePath
from imgpull.store.snapshots.node import Node

__all__ = ["MOST_LINKS_FOLLOWED", "MergedTree", "Node"]

_KNOWN_DIRECTORIES = 4_096
MOST_LINKS_FOLLOWED = 255
"""Symbolic links in one resolution: filepath-securejoin's figure, by which containerd and runc go."""

_VISIBLE = frozenset(("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size"))

_Contributors = tuple[tuple[int, bool], ...]
"""Layers that matter in a directory, topmost first: (index, whether it has that directory on disk)."""


class MergedTree:
    """Layers, bottom first, seen as one tree. Safe for several threads; close it (or use ``with``).

    Costs one ``fstatat`` per layer that matters in a known directory, whatever the depth. It relies on layers not
    changing any more; nothing is remembered of what is *in* a directory, so memory does not grow with its size.
    """

    def __init__(self, layers: Sequence[LayerTree]) -> None:
        self.layers = tuple(layers)
        self._descriptors = Descriptors(self.layers)
        # The table of directories below has the descriptors' lock: each look-up needs both.
        self._lock = self._descriptors.lock
        # A directory that is missing is remembered, too: a deep name asks for each of its prefixes in turn.
        self._directories: OrderedDict[TreePath, _Contributors | None] = OrderedDict()
        self._root = _root_contributors(self.layers)

    # -- looking up ----------------------------------------------------------------------------------------------

    def lookup(self, path: TreePath) -> Node | None:
        """The entry at this canonical path, or None where nothing is, a parent is missing or no directory.

        Raises ValueError for a path that is not canonical, OSError for what the kernel refuses (a name too long).
        """
        with self._lock:
            if not path:
                return self._root_node()
            parent, name = path[:-1], path[-1]
            contributors = self._contributors(parent)
            return None if contributors is None else self._find(contributors, parent, name)

    def listdir(self, path: TreePath) -> dict[bytes, Node]:
        """Entries of a directory by name, in byte order. Raises FileNotFoundError or NotADirectoryError."""
        return {node.name: node for node in self.scan(path)}

    def scan(self, path: TreePath) -> Iterator[Node]:
        """:meth:`listdir` one by one: what is held of a directory of a million entries is its names."""
        with self._lock:
            names = self._names(path)
        for name in sorted(names):
            with self._lock:
                child = (*path, name)
                status = self._status(names[name], child)
            if status is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), _display(child))
            yield Node(self._descriptors, child, names[name], status)

    def names(self, path: TreePath) -> set[bytes]:
        """Names in a directory, which is all that is looked at. Raises as :meth:`listdir`."""
        with self._lock:
            return set(self._names(path))

    def walk(self, top: TreePath = ()) -> Iterator[Node]:
        """Every entry at and below ``top``, a directory before what is in it, siblings in byte order."""
        node = self.lookup(top)
        if node is None:
            return
        yield node
        pending = [self.scan(top)] if node.is_directory else []
        while pending:
            child = next(pending[-1], None)
            if child is None:
                pending.pop()
                continue
            yield child
            if child.is_directory:
                pending.append(self.scan(child.path))

    def resolve(self, path: Iterable[bytes], *, follow_last: bool = True) -> TreePath:
        """The canonical path of an existing entry, following symbolic links inside the root.

        ``path`` may hold ``.``, ``..`` and empty components. An absolute target starts again at the root and ``..``
        stops there, as in a chroot. ``follow_last=False`` leaves a link in the last place as it is. Raises
        FileNotFoundError, NotADirectoryError, or OSError(ELOOP) after 255 links.
        """
        given = tuple(path)
        pending = list(reversed(given))
        where: list[bytes] = []
        hops = 0
        while pending:
            part = pending.pop()
            if part in (b"", b".", b".."):
                self._step_up(where, part, given)
                continue
            child = (*where, part)
            node = self.lookup(child)
            if node is None:
                raise self._missing(child, given)
            if node.is_symlink and (follow_last or pending):
                hops += 1
                if hops > MOST_LINKS_FOLLOWED:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), _display(given))
                target = node.readlink()
                if target.startswith(b"/"):
                    where.clear()
                pending.extend(reversed(target.split(b"/")))
            else:
                where.append(part)
        return tuple(where)

    def _step_up(self, where: list[bytes], part: bytes, given: TreePath) -> None:
        # "file/", "file/." and "file/.." are ENOTDIR to the kernel, so they are here.
        if where and not self._is_directory(tuple(where)):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), _display(given))
        if part == b".." and where:
            where.pop()

    def _is_directory(self, path: TreePath) -> bool:
        with self._lock:
            return self._contributors(path) is not None

    def _missing(self, child: TreePath, given: TreePath) -> OSError:
        kind = errno.ENOENT if self._is_directory(child[:-1]) else errno.ENOTDIR
        return OSError(kind, os.strerror(kind), _display(given))

    # -- below here the lock is held -----------------------------------------------------------------------------

    def _root_node(self) -> Node | None:
        if not self.layers:
            return None
        top = len(self.layers) - 1
        status = os.fstat(self._descriptors.get(top, ()))
        return Node(self._descriptors, (), top, _with_mode(status, self.layers[top].modes.get(())))

    def _find(self, contributors: _Contributors, parent: TreePath, name: bytes) -> Node | None:
        if not name or b"/" in name or name in (b".", b".."):
            raise ValueError(f"not a canonical path: {_display((*parent, name))!r}")
        path = (*parent, name)
        for index, present in contributors:
            status = self._status(index, path) if present else None
            if status is not None:
                return Node(self._descriptors, path, index, status)
            if self.layers[index].hides(parent, name):
                return None
        return None

    def _status(self, index: int, path: TreePath) -> os.stat_result | None:
        """lstat of an entry in one layer whose parent directory is there."""
        try:
            status = os.stat(path[-1], dir_fd=self._descriptors.get(index, path[:-1]), follow_symlinks=False)
        except FileNotFoundError:
            return None
        modes = self.layers[index].modes
        return _with_mode(status, modes.get(path)) if modes else status

    def _contributors(self, path: TreePath) -> _Contributors | None:
        """The layers that matter in this directory, or None where the merged view has no directory there."""
        if not path:
            return self._root if self.layers else None
        known = self._directories
        depth = len(path)
        while depth and path[:depth] not in known:
            depth -= 1
        contributors: _Contributors | None = self._root
        if depth:
            contributors = known[path[:depth]]
            known.move_to_end(path[:depth])
        while contributors is not None and depth < len(path):
            contributors = self._descend(contributors, path[:depth], path[depth])
            depth += 1
            self._remember(path[:depth], contributors)
        if depth < len(path):
            self._remember(path, None)
        return contributors

    def _remember(self, path: TreePath, contributors: _Contributors | None) -> None:
        self._directories[path] = contributors
        if len(self._directories) > _KNOWN_DIRECTORIES:
            self._directories.popitem(last=False)

    def _descend(self, contributors: _Contributors, parent: TreePath, name: bytes) -> _Contributors | None:
        node = self._find(contributors, parent, name)
        if node is None or not node.is_directory:
            return None
        found: list[tuple[int, bool]] = []
        for index, present in contributors:
            layer = self.layers[index]
            status = self._status(index, node.path) if present else None
            if status is not None and not stat.S_ISDIR(status.st_mode):
                break
            if status is not None or node.path in layer.marked:
                found.append((index, status is not None))
            if node.path in layer.opaques or layer.hides(parent, name):
                break
        return tuple(found)

    def _names(self, path: TreePath) -> dict[bytes, int]:
        """Visible names in a directory → index of the layer that gives each."""
        contributors = self._contributors(path)
        if contributors is None:
            kind = errno.ENOENT if self.lookup(path) is None else errno.ENOTDIR
            raise OSError(kind, os.strerror(kind), _display(path))
        names: dict[bytes, int] = {}
        hidden: set[bytes] = set()
        for index, present in contributors:
            if present:
                for text in os.listdir(self._descriptors.get(index, path)):
                    name = os.fsencode(text)
                    if name not in hidden:
                        names.setdefault(name, index)
            hidden |= self.layers[index].whiteouts.get(path, frozenset())
        return names

    # -- life cycle ----------------------------------------------------------------------------------------------

    def release_descriptors(self) -> None:
        """Close what is held open for speed; what is needed again is opened again."""
        self._descriptors.release()

    def close(self) -> None:
        """Close every descriptor. A second call does nothing; using the tree afterwards raises ValueError."""
        self._descriptors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _root_contributors(layers: Sequence[LayerTree]) -> _Contributors:
    found: list[tuple[int, bool]] = []
    for index in reversed(range(len(layers))):
        found.append((index, True))
        if () in layers[index].opaques:
            break
    return tuple(found)


def _with_mode(status: os.stat_result, permissions: int | None) -> os.stat_result:
    if permissions is None:
        return status
    # stat_result takes its ten visible fields and a dictionary of the others, nanoseconds among them; CPython 3.13
    # refuses a dictionary that repeats a visible one.
    names = (name for name in dir(status) if name.startswith("st_") and name not in _VISIBLE)
    others = {name: getattr(status, name) for name in names}
    return os.stat_result((stat.S_IFMT(status.st_mode) | permissions, *tuple(status)[1:]), others)


def _display(path: Iterable[bytes]) -> str:
    return os.fsdecode(b"/".join(path))
