"""Workers: threads that work off one queue, at most so many at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from imgpull.locking import Threads

__all__ = ["Workers"]


class Workers:
    """At most ``count`` threads that work off one queue, first come, first served; those that wait for work of another
    process are not counted.

    One that finds the queue empty ends: a thread costs less than the request it makes, and nothing is left to close.
    """

    def __init__(self, threads: Threads, count: int, name: str) -> None:
        self._threads = threads
        self._count = count
        self._name = name
        # Guards _queue and _running. Held while a thread starts: one that counts is one that will look at the queue.
        self._lock = threading.Lock()
        self._queue: deque[Callable[[], None]] = deque()
        self._running: set[threading.Thread] = set()

    def submit(self, run: Callable[[], None]) -> None:
        """Run ``run`` when its turn comes. Raises as :meth:`Threads.start`, and then it does not run."""
        with self._lock:
            try:
                if len(self._running) < self._count:
                    self._start()
            except Exception:
                if not self._running:
                    raise
            self._queue.append(run)

    def stand_aside(self) -> None:
        """Called by a worker that will wait for work which is not ours: its place goes to another, and it ends with
        what it is doing now. Without effect where no thread is to be had."""
        me = threading.current_thread()
        with self._lock:
            if me not in self._running:
                return
            self._running.discard(me)
            try:
                if self._queue:
                    self._start()
            except Exception:
                self._running.add(me)

    def _start(self) -> None:
        self._running.add(self._threads.start(self._work, self._name))

    def _work(self) -> None:
        while (run := self._next()) is not None:
            run()

    def _next(self) -> Callable[[], None] | None:
        """What to do, or None, which ends the worker: in the same breath, so that nothing is queued behind its back."""
        me = threading.current_thread()
        with self._lock:
            if me in self._running and self._queue:
                return self._queue.popleft()
            self._running.discard(me)
            return None
