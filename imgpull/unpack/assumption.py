"""What a layer is taken to lie upon while its parents are still being unpacked.

Of what lower layers have, one thing alone decides where an entry goes: whether a name on its way is a symbolic link,
and to where. :class:`AssumedLinks` answers with a guess, and remembers what it answered. Given the same answers the
entries are made in the same way, so where each of them turns out true, what was made is what serial application would
have made; where one does not, the layer is applied again. How good the guesses are decides how often, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from imgpull.locking import Cancellation
from imgpull.store.snapshots.layer import TreePath
from imgpull.store.snapshots.merged import MergedTree

__all__ = ["AssumedLinks", "Guess", "KnownLinks", "LowerLinks", "link_target"]

_REMEMBERED_BYTES = 8 << 20
"""Of answers, one for each directory that the layer only implies. A layer with more is applied again."""
_ANSWER_BYTES = 150
"""What one takes beside its bytes, measured with tracemalloc."""

Guess = Callable[[TreePath], bytes | None]
"""The target of a symbolic link that the parents may have at this path, None for anything else."""


class LowerLinks(Protocol):
    """What leads entries elsewhere: the parents, or an assumption about them."""

    known: MergedTree | None
    """The parents' view."""

    def link_target(self, path: TreePath, /) -> bytes | None:
        """The target of the symbolic link at a canonical path, None where there is none."""

    @property
    def assumes(self) -> bool:
        """Whether anything rests on what is not known."""
        return False

    def holds(self, lower: MergedTree, cancel: Cancellation) -> bool:
        """Whether all answers are true of ``lower``. Raises PullCancelledError."""
        return True

    def release_descriptors(self) -> None:
        """Close what is held open for speed; it is opened again when needed."""


class KnownLinks(LowerLinks):
    """Parents that are known."""

    def __init__(self, lower: MergedTree) -> None:
        self.known: MergedTree | None = lower
        self._lower = lower

    def link_target(self, path: TreePath, /) -> bytes | None:
        return link_target(self._lower, path)

    def release_descriptors(self) -> None:
        self._lower.release_descriptors()


class AssumedLinks(LowerLinks):
    """Parents that are guessed at; ``release`` closes what the guesses hold open."""

    def __init__(self, guess: Guess, release: Callable[[], None] = lambda: None) -> None:
        self.known: MergedTree | None = None
        self._guess = guess
        self._release = release
        self._answers: dict[bytes, bytes | None] = {}  # a tuple of components would take five times the memory
        self._left_bytes = _REMEMBERED_BYTES

    def link_target(self, path: TreePath, /) -> bytes | None:
        name = b"/".join(path)
        if name not in self._answers:
            if self._left_bytes < 0:
                return None
            target = self._guess(path)
            self._left_bytes -= _ANSWER_BYTES + len(name) + len(target or b"")
            self._answers[name] = target
        return self._answers[name]

    @property
    def assumes(self) -> bool:
        return bool(self._answers)

    def holds(self, lower: MergedTree, cancel: Cancellation) -> bool:
        """As far as that can be told: an error is for the next try to meet."""
        if self._left_bytes < 0:
            return False
        for name, target in self._answers.items():
            cancel.raise_if_cancelled()
            try:
                if link_target(lower, tuple(name.split(b"/"))) != target:
                    return False
            except OSError:
                return False
        return True

    def release_descriptors(self) -> None:
        self._release()


def link_target(lower: MergedTree, path: TreePath) -> bytes | None:
    """The target of the symbolic link at ``path``, None where there is none. Raises OSError."""
    node = lower.lookup(path)
    return node.readlink() if node is not None and node.is_symlink else None
