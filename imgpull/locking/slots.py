"""Slots: a bounded number of workers at a time, first come first served, and a wait that can be cancelled."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from imgpull.locking.cancellation import Cancellation

__all__ = ["Slots"]


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
        self._queue: deque[threading.Event] = deque()

    @contextmanager
    def take(self, cancel: Cancellation | None = None) -> Iterator[None]:
        """Hold one slot for the block. Raises PullCancelledError when ``cancel`` fires first."""
        self._acquire(cancel)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, cancel: Cancellation | None) -> None:
        with self._lock:
            if self._free and not self._queue:
                self._free -= 1
                return
            ready = threading.Event()
            self._queue.append(ready)
        forget = cancel.add_callback(ready.set) if cancel is not None else None
        try:
            ready.wait()
            if cancel is not None:
                cancel.raise_if_cancelled()
        except BaseException:
            self._give_up(ready)
            raise
        finally:
            if forget is not None:
                forget()

    def _give_up(self, ready: threading.Event) -> None:
        with self._lock:
            if ready in self._queue:
                self._queue.remove(ready)
                return
        self._release()  # the slot had been granted already: pass it on

    def _release(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1
