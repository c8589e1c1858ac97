"""A look at layers that are still being applied: what leads entries elsewhere there, for an assumption to go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from imgpull.store.snapshots import LayerTree, MergedTree, TreePath
from imgpull.unpack.assumption import link_target

__all__ = ["Glimpse"]


class Glimpse:
    """Links that the layers below have by now. Nothing is opened before the first question.

    ``wait`` is called with each question and a function that looks whether anything is there by now; it returns whether
    time has passed, so that one must look anew. ``layers`` says what lies below, bottom first, and ``moves`` is a
    number that rises whenever that has changed. (A whiteout or a link yet to come is not seen, nor what moves just
    now.)
    """

    def __init__(
        self,
        wait: Callable[[TreePath, Callable[[], bool]], bool],
        layers: Callable[[], Sequence[LayerTree]],
        moves: Callable[[], int],
    ) -> None:
        self._wait = wait
        self._layers = layers
        self._moves = moves
        self._seen = -1
        self._tree: MergedTree | None = None

    def link_target(self, path: TreePath) -> bytes | None:
        """The target of the symbolic link at this path, None where none is seen. Raises what ``wait`` raises."""
        if self._wait(path, lambda: self._there(path)):
            self.close()
        with suppress(OSError):
            return link_target(self._current(), path)
        return None

    def _there(self, path: TreePath) -> bool:
        self.close()  # what is not there is remembered, and may be there since
        with suppress(OSError):
            return self._current().lookup(path) is not None
        return False

    def _current(self) -> MergedTree:
        moves = self._moves()  # first: what moves from here on is looked at again with the next question
        if self._tree is None or moves != self._seen:
            self.close()
            self._tree = MergedTree(self._layers())
            self._seen = moves
        return self._tree

    def close(self) -> None:
        """Close what is open; the next question opens it again."""
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()
