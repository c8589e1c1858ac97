"""Held directory descriptors of several layers: the only way the merged view touches the disk."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence

from imgpull.store.snapshots.layer import LayerTree, TreePath

__all__ = ["Descriptors"]

_HELD = 128
"""Measured: with 128 held directories openat of single components costs no more than openat2. It is also
what keeps 500 layers within the usual limit of 1 024 descriptors."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Descriptors:
    """At most 128 open directories, the least recently used one closed first.

    A directory is opened one component at a time with ``O_NOFOLLOW``, from the nearest one that is held. Whoever
    uses a descriptor does so under :attr:`lock`, else another thread could close it in between and the number could
    come to mean something else.
    """

    def __init__(self, layers: Sequence[LayerTree], *, limit: int = _HELD) -> None:
        self.layers = tuple(layers)
        self.lock = threading.RLock()
        """Guards the table, and keeps a descriptor open while a call uses it. Only system calls run under it."""
        self._limit = limit
        self._held: OrderedDict[tuple[int, TreePath], int] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    def get(self, index: int, path: TreePath) -> int:
        """Descriptor of a directory that layer ``index`` has on disk; for use under :attr:`lock` only.

        Raises OSError, or ValueError after :meth:`close`."""
        held = self._held
        fd = held.get((index, path))
        if fd is not None:
            held.move_to_end((index, path))
            return fd
        depth = len(path)
        while depth and (index, path[:depth]) not in held:
            depth -= 1
        fd = held.get((index, path[:depth]))
        if fd is None:
            fd = self._hold((index, ()), os.open(self.layers[index].root, _DIRECTORY))
        else:
            held.move_to_end((index, path[:depth]))
        for end in range(depth + 1, len(path) + 1):
            fd = self._hold((index, path[:end]), os.open(path[end - 1], _DIRECTORY, dir_fd=fd))
        return fd

    def _hold(self, key: tuple[int, TreePath], fd: int) -> int:
        if self._closed:
            os.close(fd)
            raise ValueError("the tree is closed: use it inside its with block")
        self._held[key] = fd
        if len(self._held) > self._limit:
            os.close(self._held.popitem(last=False)[1])
        return fd

    def release(self) -> None:
        """Close all of them; what is asked for again is opened again."""
        with self.lock:
            while self._held:
                os.close(self._held.popitem()[1])

    def close(self) -> None:
        """:meth:`release` for good. A second call does nothing."""
        with self.lock:
            self._closed = True
            self.release()
