"""The keyed lock that locks nothing (containerd's ``kmutex.NewNoop()``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from imgpull.locking.cancellation import Cancellation

__all__ = ["NoSuppression"]


class _Unlocked:
    """A hold that keeps nobody out."""

    __slots__ = ("_cancel", "key")

    waited: ClassVar[bool] = False

    def __init__(self, key: str, cancel: Cancellation | None) -> None:
        self.key = key
        self._cancel = cancel

    def __enter__(self) -> _Unlocked:
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


class NoSuppression:
    """A :class:`~imgpull.locking.KeyedLock` under which everyone does everything: the benchmark's other arm.

    A :class:`~imgpull.Puller` given this one also runs without flights and without the store's locks across
    processes, so two arms differ in this one argument.
    """

    __slots__ = ()

    exclusive: ClassVar[bool] = False

    def hold(self, key: str, timeout_seconds: float | None = None, cancel: Cancellation | None = None) -> _Unlocked:
        """A hold that never waits; ``timeout_seconds`` is without effect."""
        return _Unlocked(key, cancel)

    def waiters(self, key: str) -> int:
        """Always 0: nobody waits."""
        return 0

    def __len__(self) -> int:
        """Always 0: no key is live."""
        return 0

    def __repr__(self) -> str:
        return "NoSuppression()"
