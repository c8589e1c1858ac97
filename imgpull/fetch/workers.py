"""Threads that fly: daemons, counted, so that a store can end with none of them left."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable

from imgpull.errors import StoreError

__all__ = ["Crew", "Workers"]

_EXIT_SECONDS = 1.0
"""How long an interpreter that exits waits for work to notice that it was cancelled; partials outlive it anyway."""


class Crew:
    """The threads that work on one store, whoever asked. Their work may be several callers', so only the store waits.

    Daemons, unlike the workers of ``concurrent.futures``, which an exit joins: it would wait for a pull nobody wants.
    """

    def __init__(self) -> None:
        # Guards _threads and _dismissed. Held while a thread starts: one that is listed can be joined.
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._dismissed = False

    def start(self, run: Callable[[], None], name: str) -> None:
        """Run ``run`` on a thread of its own. Raises StoreError once dismissed, RuntimeError where no thread is to be
        had."""

        def main() -> None:
            with self._lock:
                self._threads.add(thread)  # again: an interrupted start() may not know that it succeeded
            try:
                run()
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=main, name=name, daemon=True)
        with self._lock:
            if self._dismissed:
                raise StoreError("the store was closed while it was pulled into: open it again")
            self._threads.add(thread)
            try:
                thread.start()
            finally:
                if thread.ident is None:  # it never ran, so it will not take itself off
                    self._threads.discard(thread)

    def dismiss(self) -> None:
        """No thread starts from here on."""
        with self._lock:
            self._dismissed = True

    def join(self) -> None:
        """Wait for all that run, but for the caller's own; while the interpreter exits, for a moment only."""
        with self._lock:
            threads = self._threads - {threading.current_thread()}
        if threading.main_thread().is_alive():
            for thread in threads:
                thread.join()
            return
        deadline = time.monotonic() + _EXIT_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class Workers:
    """At most ``count`` threads of a crew that work off one queue, first come, first served; those that wait for work
    of another process are not counted.

    One that finds the queue empty ends: a thread costs less than the request it makes, and nothing is left to close.
    """

    def __init__(self, crew: Crew, count: int, name: str) -> None:
        self._crew = crew
        self._count = count
        self._name = name
        self._lock = threading.Lock()  # guards _queue, _free and _places
        self._queue: deque[Callable[[], None]] = deque()
        self._free = list(range(count))
        """The numbers, in their threads' names, of workers that don't run; a heap."""
        self._places: dict[threading.Thread, int] = {}
        """The numbers of those that run."""

    def submit(self, run: Callable[[], None]) -> None:
        """Run ``run`` when its turn comes. Raises as :meth:`Crew.start`, and then it does not run."""
        with self._lock:
            self._queue.append(run)
            if not self._free:
                return
            number = heapq.heappop(self._free)
        try:
            self._crew.start(lambda: self._work(number), f"{self._name}_{number}")
        except Exception:
            with self._lock:
                heapq.heappush(self._free, number)
                if len(self._free) < self._count or run not in self._queue:
                    return  # another worker takes it, or has
                self._queue.remove(run)
            raise

    def stand_aside(self) -> None:
        """Called by a worker that will wait for work which is not ours: its place goes to another, and it ends with
        what it is doing now. Without effect where no thread is to be had."""
        me = threading.current_thread()
        with self._lock:
            number = self._places.pop(me, None)
            if number is None:
                return
            if not self._queue:
                heapq.heappush(self._free, number)
                return
        try:
            self._crew.start(lambda: self._work(number), f"{self._name}_{number}")
        except Exception:
            with self._lock:
                self._places[me] = number

    def _work(self, number: int) -> None:
        with self._lock:
            self._places[threading.current_thread()] = number
        while (run := self._next()) is not None:
            run()

    def _next(self) -> Callable[[], None] | None:
        """What to do, or None, which ends the worker: in the same breath, so that nothing is queued behind its back."""
        with self._lock:
            number = self._places.get(threading.current_thread())
            if number is None:
                return None
            if self._queue:
                return self._queue.popleft()
            del self._places[threading.current_thread()]
            heapq.heappush(self._free, number)
            return None
