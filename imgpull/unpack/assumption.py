"""What a layer is taken to lie upon while its parents are still being unpacked: nothing that matters.

Of what lower layers have, one thing alone decides where an entry goes: whether a name on its way is a symbolic link.
:class:`Assumption` answers that none is, and remembers each path it was asked for. Given the same answers the entries
are made in the same way, so where none of those paths turns out to be a link, what was made is what serial application
would have made; where one is, the layer is applied again.
"""

from __future__ import annotations

from typing import Protocol

from imgpull.store.snapshots.layer import TreePath
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.node import Node

__all__ = ["Assumption", "Below"]

_REMEMBERED = 1 << 16
"""Paths, one for each directory that the layer only implies: about 8 MiB. A layer with more is applied again."""


class Below(Protocol):
    """What entries are led by: a merged view of the parents, or an assumption about it."""

    def lookup(self, path: TreePath, /) -> Node | None:
        """The entry at a canonical path; None where there is none."""


class Assumption:
    """No path is a symbolic link in the parents' view."""

    def __init__(self) -> None:
        self._asked: dict[bytes, None] = {}  # a tuple of components would take five times the memory
        self._too_many = False

    def __bool__(self) -> bool:
        """Whether anything rests on it."""
        return bool(self._asked)

    def lookup(self, path: TreePath, /) -> None:
        """Nothing is there."""
        if len(self._asked) < _REMEMBERED:
            self._asked[b"/".join(path)] = None
        else:
            self._too_many = True

    def holds(self, lower: MergedTree) -> bool:
        """Whether it was true of ``lower``, as far as that can be told: an error is for the next try to meet."""
        if self._too_many:
            return False
        try:
            nodes = (lower.lookup(tuple(path.split(b"/"))) for path in self._asked)
            return not any(node is not None and node.is_symlink for node in nodes)
        except OSError:
            return False
