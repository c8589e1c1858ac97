"""Slots: a bounded number of workers at a time, first come first served, and a wait that can be cancelled."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from imgpull.locking.cancellation import Cancellation

__all__ = ["Slot", "Slots"]


class Slots:
    """``count`` slots. A slot is always the last thing taken: whoever holds one waits for no key.

    threading.Semaphore was rejected: its wait can't be cancelled without polling, and it wakes in no order.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"at least one slot is needed, not {count}")
        self.count = count
        self._lock = threading.Lock()  # guards _free and _queue
        self._free = count
        # A bell for each who waits: an Event takes ten times as long to make, and a wait is as short as a small layer.
        self._queue: deque[SimpleQueue[None]] = deque()

    @property
    def free(self) -> int:
        """How many are free now."""
        return self._free

    def take(self, cancel: Cancellation | None = None) -> Slot:
        """Hold one slot for a ``with`` block. Entering raises PullCancelledError when ``cancel`` fires first."""
        return Slot(self, cancel)

    def _acquire(self, cancel: Cancellation | None) -> None:
        with self._lock:
            if self._free and not self._queue:
                self._free -= 1
                return
            ready: SimpleQueue[None] = SimpleQueue()
            self._queue.append(ready)
        forget = cancel.add_callback(lambda: ready.put(None)) if cancel is not None else None
        try:
            ready.get()
            if cancel is not None:
                cancel.raise_if_cancelled()
        except BaseException:
            self._give_up(ready)
            raise
        finally:
            if forget is not None:
                forget()

    def _give_up(self, ready: SimpleQueue[None]) -> None:
        with self._lock:
            if ready in self._queue:
                self._queue.remove(ready)
                return
        self._release()  # the slot had been granted already: pass it on

    def _release(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().put(None)
            else:
                self._free += 1


class Slot:
    """One thread's claim to a slot, which it has inside the ``with`` block, but for the time it lends it."""

    __slots__ = ("_cancel", "_slots", "held")

    def __init__(self, slots: Slots, cancel: Cancellation | None) -> None:
        self._slots = slots
        self._cancel = cancel
        self.held = False

    def __enter__(self) -> Self:
        self._slots._acquire(self._cancel)
        self.held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

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
