"""Slots: a bounded number of workers at a time, those with most to do first, and a wait that can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from imgpull.locking.cancellation import Cancellation

__all__ = ["Slot", "Slots"]

_MOST_PASSED = 16
"""How often who waits longest may be passed over: a small layer must not wait for as long as larger ones come."""


class Slots:
    """``count`` slots. Of those who wait, the one with the greatest weight is served, of equals the first: work that
    takes long and begins late is what others wait for in the end, with a CPU idle. A slot is always the last thing
    taken: whoever holds one waits for no key.

    threading.Semaphore was rejected: its wait can't be cancelled without polling, and it wakes in no order.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"at least one slot is needed, not {count}")
        self.count = count
        self._lock = threading.Lock()  # guards all that follows
        self._free = count
        # A bell for each who waits: an Event takes ten times as long to make, and a wait is as short as a small layer.
        self._queue: list[tuple[SimpleQueue[bool], float]] = []
        self._heaviest = -inf  # of the queue
        self._passed = 0  # how often the first of the queue was

    @property
    def free(self) -> int:
        """How many are free now."""
        return self._free

    def take(self, cancel: Cancellation | None = None, weight: float = 0) -> Slot:
        """Hold one slot for a ``with`` block. Entering raises PullCancelledError when ``cancel`` fires first."""
        return Slot(self, cancel, weight)

    def _acquire(self, cancel: Cancellation | None, weight: float) -> bool:
        """Returns whether it was this one's turn, after all who outweighed it."""
        with self._lock:
            if self._free and not self._queue:
                self._free -= 1
                return False
            ready: SimpleQueue[bool] = SimpleQueue()
            self._queue.append((ready, weight))
            self._heaviest = max(self._heaviest, weight)
        forget = cancel.add_callback(lambda: ready.put(False)) if cancel is not None else None
        try:
            due = ready.get()
            if cancel is not None:
                cancel.raise_if_cancelled()
            return due
        except BaseException:
            self._give_up(ready)
            raise
        finally:
            if forget is not None:
                forget()

    def _give_up(self, ready: SimpleQueue[bool]) -> None:
        with self._lock:
            for at, (waiting, _) in enumerate(self._queue):
                if waiting is ready:
                    self._pop(at)
                    return
        self._release()  # the slot had been granted already: pass it on

    def _release(self) -> None:
        with self._lock:
            if not self._queue:
                self._free += 1
                return
            queue = self._queue
            due = self._passed >= _MOST_PASSED
            at = 0 if due else max(range(len(queue)), key=lambda at: queue[at][1])
            self._passed += 1
            self._pop(at).put(due)

    def _pop(self, at: int) -> SimpleQueue[bool]:
        if at == 0:
            self._passed = 0
        ready, _ = self._queue.pop(at)
        self._heaviest = max((weight for _, weight in self._queue), default=-inf)
        return ready


class Slot:
    """One thread's claim to a slot, which it has inside the ``with`` block, but for the time it lends it."""

    __slots__ = ("_cancel", "_due", "_slots", "_weight", "held")

    def __init__(self, slots: Slots, cancel: Cancellation | None, weight: float) -> None:
        self._slots = slots
        self._cancel = cancel
        self._weight = weight
        self._due = False
        self.held = False

    def __enter__(self) -> Self:
        self._due = self._slots._acquire(self._cancel, self._weight)
        self.held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    @property
    def outweighed(self) -> bool:
        """Whether somebody with a greater weight waits for a slot, as far as can be told without a lock. Never of one
        that was passed over for long enough: it would lose its slot at once."""
        return self.held and not self._due and self._slots._heaviest > self._weight

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Leaves the slot to others while this thread waits for something, then queues for one again; without effect
        where none is held. Raises PullCancelledError; after an error of the block the slot is not taken back."""
        held = self.held
        self._give_back()
        yield
        if held:
            self.__enter__()

    def _give_back(self) -> None:
        if self.held:
            self.held = False
            self._slots._release()
