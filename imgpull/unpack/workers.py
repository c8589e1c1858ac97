"""Workers: a bounded number of threads that do one pull's tasks, half of them in order, half the largest first.

A task may wait for those before it. That leads to no circle: the first half, this thread among it, always takes the
first task that nobody has begun. So whenever it waits, all tasks before the one it waits with are begun; and the first
of those that are not done waits for nobody.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from imgpull.errors import PullCancelledError
from imgpull.locking import Cancellation

__all__ = ["Task", "run_all"]

Task = tuple[Callable[[], None], int]
"""What to do, and how much it is, in whatever unit."""

_log = logging.getLogger("imgpull.unpack")


def run_all(tasks: Sequence[Task], max_workers: int, stop: Cancellation) -> None:
    """Do all tasks, ``max_workers`` of them at once: in this thread and in others of its own, which end before
    this returns. ``stop`` is fired at the first error, which is raised, with those that came after it as notes."""
    workers = _Workers(tasks, stop)
    name = threading.current_thread().name
    # Daemons, as the thread they work for: an interpreter that exits waits for no pull.
    threads = [
        threading.Thread(target=workers.work, args=(number % 2 == 1,), name=f"{name}/{number}", daemon=True)
        for number in range(1, min(max_workers, len(tasks)))
    ]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError:
        _log.info("no more threads to be had: %d layers at once", len(started) + 1)
    try:
        workers.work(largest_first=False)
    finally:
        for thread in started:
            thread.join()
    workers.raise_first()


class _Workers:
    def __init__(self, tasks: Sequence[Task], stop: Cancellation) -> None:
        self._stop = stop
        self._lock = threading.Lock()  # guards _waiting and _errors
        self._waiting = list(tasks)
        self._errors: list[BaseException] = []

    def work(self, largest_first: bool) -> None:
        while (task := self._next(largest_first)) is not None:
            try:
                task()
            except BaseException as error:  # raised in the thread that waits for it
                with self._lock:
                    self._errors.append(error)
                    self._waiting.clear()
                self._stop.cancel()

    def _next(self, largest_first: bool) -> Callable[[], None] | None:
        with self._lock:
            waiting = self._waiting
            if not waiting:
                return None
            at = max(range(len(waiting)), key=lambda at: waiting[at][1]) if largest_first else 0
            return waiting.pop(at)[0]

    def raise_first(self) -> None:
        if not self._errors:
            return
        first, *others = self._errors
        self._errors = []  # or the traceback would keep the errors, and they the frames
        for other in others:
            # One fetch's error may have reached several threads; those that were stopped by the first say nothing new.
            if other is not first and not isinstance(other, PullCancelledError):
                first.add_note(f"also: {other}")
        raise first
