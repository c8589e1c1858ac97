"""What a layer hides in the layers below, as a tree, so that a look-up costs the path's length and no more.

Sets of paths would have to be asked for every prefix: quadratic in the depth (GHSA-rp3h-jf77-q9p4 is what 10⁵ nested
opaque markers did to containerd).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from imgpull.store.snapshots.layer import TreePath

__all__ = ["Marks"]


class _Mark:
    __slots__ = ("below", "names", "opaque")

    def __init__(self) -> None:
        # Most marks have neither; an empty dictionary and set for each took 280 bytes.
        self.below: dict[bytes, _Mark] | None = None
        self.names: set[bytes] | None = None
        self.opaque = False


class Marks:
    """Whiteouts and opaque directories by canonical path."""

    def __init__(self) -> None:
        self._root = _Mark()
        self._empty = True

    def _at(self, path: Iterable[bytes]) -> _Mark:
        self._empty = False
        mark = self._root
        for part in path:
            if mark.below is None:
                mark.below = {}
            child = mark.below.get(part)
            if child is None:
                child = mark.below[part] = _Mark()
            mark = child
        return mark

    def whiteout(self, directory: Iterable[bytes], names: Iterable[bytes]) -> None:
        """Hide ``names`` in ``directory``."""
        mark = self._at(directory)
        if mark.names is None:
            mark.names = set()
        mark.names.update(names)

    def opaque(self, directory: Iterable[bytes]) -> None:
        """Hide everything in ``directory``."""
        self._at(directory).opaque = True

    def hides(self, path: Iterable[bytes]) -> bool:
        """Whether what lower layers have at this path is hidden. The root never is."""
        if self._empty:
            return False
        mark: _Mark | None = self._root
        for part in path:
            if mark is None:
                return False
            if mark.opaque or (mark.names is not None and part in mark.names):
                return True
            mark = mark.below.get(part) if mark.below is not None else None
        return False

    def outermost(self, whiteout: Callable[[TreePath, bytes], None], opaque: Callable[[TreePath], None]) -> None:
        """Call back for each mark that no other one already hides."""
        pending: list[tuple[TreePath, _Mark]] = [((), self._root)]
        while pending:
            path, mark = pending.pop()
            if mark.opaque:
                opaque(path)
                continue
            names = mark.names or ()
            for name in names:
                whiteout(path, name)
            below = mark.below or {}
            pending.extend(((*path, name), child) for name, child in below.items() if name not in names)
