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
        self.below: dict[bytes, _Mark] = {}
        self.names: set[bytes] = set()
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
            mark = mark.below.setdefault(part, _Mark())
        return mark

    def whiteout(self, directory: Iterable[bytes], names: Iterable[bytes]) -> None:
        """Hide ``names`` in ``directory``."""
        self._at(directory).names.update(names)

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
            if mark.opaque or part in mark.names:
                return True
            mark = mark.below.get(part)
        return False

    def outermost(self, whiteout: Callable[[TreePath, bytes], None], opaque: Callable[[TreePath], None]) -> None:
        """Call back for each mark that no other one already hides."""
        pending: list[tuple[TreePath, _Mark]] = [((), self._root)]
        while pending:
            path, mark = pending.pop()
            if mark.opaque:
                opaque(path)
                continue
            for name in mark.names:
                whiteout(path, name)
            pending.extend(((*path, name), child) for name, child in mark.below.items() if name not in mark.names)
