"""What a layer is taken to lie upon while its parents are still being unpacked.

Of what lower layers have, one thing alone decides where an entry goes: whether a name on its way is a symbolic link,
and to where. :class:`Assumption` answers with a guess, and remembers what it answered. Given the same answers the
entries are made in the same way, so where each of them turns out true, what was made is what serial application would
have made; where one does not, the layer is applied again. How good the guesses are decides how often, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from imgpull.store.snapshots.layer import TreePath
from imgpull.store.snapshots.merged import MergedTree

__all__ = ["Assumption", "Guess", "Leading", "Parents", "link_target"]

_REMEMBERED = 1 << 16
"""Answers, one for each directory that the layer only implies: about 8 MiB. A layer with more is applied again."""

Guess = Callable[[TreePath], bytes | None]
"""The target of a symbolic link that the parents may have at this path, None for anything else."""


class Leading(Protocol):
    """What leads entries elsewhere: the parents, or an assumption about them."""

    known: MergedTree | None
    """The parents' view."""

    def link_target(self, path: TreePath, /) -> bytes | None:
        """The target of the symbolic link at a canonical path, None where there is none."""

    @property
    def assumes(self) -> bool:
        """Whether anything rests on what is not known."""

    def holds(self, lower: MergedTree) -> bool:
        """Whether all answers are true of ``lower``."""


class Parents:
    """Parents that are known."""

    def __init__(self, lower: MergedTree) -> None:
        self.known: MergedTree | None = lower
        self._lower = lower

    def link_target(self, path: TreePath, /) -> bytes | None:
        return link_target(self._lower, path)

    @property
    def assumes(self) -> bool:
        return False

    def holds(self, lower: MergedTree) -> bool:
        return True


class Assumption:
    """Parents that are guessed at."""

    def __init__(self, guess: Guess) -> None:
        self.known: MergedTree | None = None
        self._guess = guess
        self._answers: dict[bytes, bytes | None] = {}  # a tuple of components would take five times the memory
        self._too_many = False

    def link_target(self, path: TreePath, /) -> bytes | None:
        name = b"/".join(path)
        if name not in self._answers:
            if len(self._answers) >= _REMEMBERED:
                self._too_many = True
                return None
            self._answers[name] = self._guess(path)
        return self._answers[name]

    @property
    def assumes(self) -> bool:
        return bool(self._answers)

    def holds(self, lower: MergedTree) -> bool:
        """As far as that can be told: an error is for the next try to meet."""
        try:
            return not self._too_many and all(
                link_target(lower, tuple(name.split(b"/"))) == target for name, target in self._answers.items()
            )
        except OSError:
            return False


def link_target(lower: MergedTree, path: TreePath) -> bytes | None:
    """The target of the symbolic link at ``path``, None where there is none. Raises OSError."""
    node = lower.lookup(path)
    return node.readlink() if node is not None and node.is_symlink else None
