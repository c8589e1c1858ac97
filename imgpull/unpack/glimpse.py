"""A look at layers that are still being applied: what leads entries elsewhere there, for an assumption to go by."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from imgpull.store.snapshots import LayerTree, MergedTree, TreePath
from imgpull.unpack.assumption import link_target

__all__ = ["Glimpse"]

_LOOKS = 3
"""A layer may be committed between hearing where it lies and opening that; one after another, rarely."""


class Glimpse:
    """Links that the layers below have by now. Use it in a ``with`` block; nothing is opened before the first question.

    ``wait`` is called before that. ``layers`` says what lies below, bottom first; it changes while one looks, and so
    may be wrong. (A whiteout or a link yet to come is not seen.)
    """

    def __init__(self, wait: Callable[[], None], layers: Callable[[], Sequence[LayerTree]]) -> None:
        self._wait = wait
        self._layers = layers
        self._tree: MergedTree | None = None

    def link_target(self, path: TreePath) -> bytes | None:
        """The target of the symbolic link at this path, None where none is seen. Raises what ``wait`` raises."""
        if self._tree is None:
            self._wait()
        for _ in range(_LOOKS):
            with suppress(OSError):
                tree = self._tree = self._tree or MergedTree(self._layers())
                target = link_target(tree, path)
                if target is not None or all(os.path.isdir(layer.root) for layer in tree.layers):
                    return target
            self.close()  # a layer was committed, and lies elsewhere now: look there
        return None

    def close(self) -> None:
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
