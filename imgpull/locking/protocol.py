"""What the fetcher and the unpacker need of a keyed lock.

Words
    *key*: text that names a piece of work (``blob://<digest>``, ``sn://<snapshotter>/<chain ID>``).
    *holder*: the thread between entering a hold and leaving it.
    *waiter*: a thread that is entering a hold and has not got the key yet.
    *live key*: a key with a holder (a key with waiters always has one).

Life cycle
    ``hold()`` only describes; entering acquires, leaving releases. A hold is entered once. It belongs to the thread
    that entered it: should that thread end without leaving, the key goes to the next waiter.

Source: containerd ``internal/kmutex`` (``KeyedLocker``: ``Lock(ctx, key) error``, ``Unlock(key)``; its no-op twin).
A context manager replaces the pair, so that what was acquired can't be forgotten and a release needs no key.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from imgpull.locking.cancellation import Cancellation

__all__ = ["Held", "KeyedLock"]


class Held(Protocol):
    """What entering a hold returns."""

    @property
    def key(self) -> str:
        """The key that was asked for."""

    @property
    def waited(self) -> bool:
        """Whether another thread or process held the key first: look again whether the work is still to be done."""


class KeyedLock(Protocol):
    """One holder per key. Implementations are safe to use from any thread."""

    @property
    def exclusive(self) -> bool:
        """True when a key has one holder at a time; False when holding suppresses nothing."""

    def hold(
        self, key: str, timeout_seconds: float | None = None, cancel: Cancellation | None = None
    ) -> AbstractContextManager[Held]:
        """Describe a hold on ``key``; entering it waits until the key is free, first come first served.

        ``timeout_seconds``: None waits for ever, 0 (or less) only tries.

        Entering raises :class:`~imgpull.LockTimeoutError` when the key was not free in time,
        :class:`~imgpull.PullCancelledError` when ``cancel`` is cancelled, before or while waiting (even when the
        key is free: containerd's semaphore prefers failing too), and :class:`RuntimeError` when this thread holds
        the key already. However entering fails, it leaves nothing behind. Leaving a hold that is not held raises
        :class:`RuntimeError`.
        """

    def waiters(self, key: str) -> int:
        """How many threads wait for ``key`` now."""

    def __len__(self) -> int:
        """How many keys are live now."""
