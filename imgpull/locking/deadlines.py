"""Deadlines: many timeouts, one thread."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from imgpull.locking.threads import Threads

__all__ = ["Deadlines"]


class Deadlines:
    """Calls each function when its time has come. One thread waits for all of them; it starts with the first and ends
    with the last. A function runs on a thread of its own: it may be a user's, and take its time."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._changed = threading.Condition()  # its lock guards all that follows
        self._pending: dict[int, Callable[[], None]] = {}
        self._times: list[tuple[float, int]] = []
        """A heap; may hold some that are no longer pending."""
        self._numbers = itertools.count()
        self._watched = False

    def after(self, seconds: float, run: Callable[[], None]) -> Callable[[], None]:
        """Call ``run()`` in so many seconds; returns what takes that back. Raises as :meth:`Threads.start`."""
        with self._changed:
            if not self._watched:
                self._threads.start(self._watch, "imgpull-timeouts")  # it waits for our lock first
                self._watched = True
            number = next(self._numbers)
            self._pending[number] = run
            heapq.heappush(self._times, (time.monotonic() + seconds, number))
            if self._times[0][1] == number:
                self._changed.notify()
        return lambda: self._forget(number)

    def _forget(self, number: int) -> None:
        with self._changed:
            self._pending.pop(number, None)
            if len(self._times) > 2 * len(self._pending):  # so that what has ended early doesn't pile up
                self._times = [entry for entry in self._times if entry[1] in self._pending]
                heapq.heapify(self._times)
                self._changed.notify()

    def _watch(self) -> None:
        while (run := self._next()) is not None:
            try:
                self._threads.start(run, "imgpull-timeout")
            except Exception:  # no thread to be had: a deadline must not be lost
                run()

    def _next(self) -> Callable[[], None] | None:
        """The next one that is due, after a wait; None, which ends the thread, where there is none."""
        with self._changed:
            while self._times:
                seconds = self._times[0][0] - time.monotonic()
                if seconds > 0:
                    self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
                elif run := self._pending.pop(heapq.heappop(self._times)[1], None):
                    return run
            self._watched = False
            return None
