"""Work that many threads want at once and one does: fetching a token, asking a credential helper."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from imgpull.errors import ImgpullError, PullCancelledError
from imgpull.locking import KeyedMutex

if TYPE_CHECKING:
    from imgpull.locking import Cancellation

__all__ = ["SharedWork"]

T = TypeVar("T")

_CROWDED = 1024
"""Remembered results from which on the unusable ones are dropped before another is added."""


@dataclass(slots=True)
class _Outcome(Generic[T]):
    round: int = 0
    """How often the work for this key has ended."""
    value: T | None = None
    failure: ImgpullError | None = None


class SharedWork(Generic[T]):
    """Per key, one thread works; those who came meanwhile share what it got, and a success is kept while usable.

    A failure goes to those who were waiting when it happened, each with an exception object of its own, and to nobody
    else: the next to come tries again. (containerd's token cache keeps the error for every later caller, buildkit
    #1728; letting each waiter fail by itself would show a wrong password to the registry 32 times.) A cancelled worker
    leaves the work to the next in line.
    """

    def __init__(self) -> None:
        self._keys = KeyedMutex()
        self._lock = threading.Lock()  # guards _outcomes and what is in them
        self._outcomes: dict[str, _Outcome[T]] = {}

    def get(
        self, key: str, usable: Callable[[T], bool], work: Callable[[], T], cancel: Cancellation | None = None
    ) -> T:
        """What is remembered for ``key`` if ``usable`` says so, else what ``work`` returns, here or in another thread.

        Raises what ``work`` raised, and PullCancelledError when ``cancel`` fired while waiting.
        """
        with self._lock:
            outcome = self._outcomes.get(key)
            arrived = outcome.round if outcome is not None else 0
            if outcome is not None and outcome.value is not None and usable(outcome.value):
                return outcome.value
        with self._keys.hold(key, cancel=cancel):
            with self._lock:
                outcome = self._outcomes.get(key, _Outcome())
                if outcome.value is not None and usable(outcome.value):
                    return outcome.value
                if outcome.failure is not None and outcome.round > arrived:
                    raise outcome.failure.copy()
            return self._work(key, usable, work, outcome.round + 1)

    def _work(self, key: str, usable: Callable[[T], bool], work: Callable[[], T], number: int) -> T:
        try:
            value = work()
        except PullCancelledError:
            raise
        except ImgpullError as error:
            self._remember(key, _Outcome(number, failure=error.copy()), usable)
            raise
        self._remember(key, _Outcome(number, value), usable)
        return value

    def _remember(self, key: str, outcome: _Outcome[T], usable: Callable[[T], bool]) -> None:
        with self._lock:
            if len(self._outcomes) >= _CROWDED:
                # Failures go too: at worst a waiter tries for itself.
                self._outcomes = {
                    key: kept for key, kept in self._outcomes.items() if kept.value is not None and usable(kept.value)
                }
            self._outcomes[key] = outcome
