"""Workers: a bounded number of threads that do one pull's tasks, begun in their order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from imgpull.errors import PullCancelledError
from imgpull.locking import Cancellation

__all__ = ["run_all"]

_log = logging.getLogger("imgpull.unpack")


def run_all(tasks: Sequence[Callable[[], None]], max_workers: int, stop: Cancellation) -> None:
    """Do all tasks, ``max_workers`` of them at once: in this thread and in others of its own, which end before
    this returns. ``stop`` is fired at the first error, which is raised, with those that came after it as notes."""
    workers = _Workers(tasks, stop)
    name = threading.current_thread().name
    # Daemons, as the thread they work for: an interpreter that exits waits for no pull.
    threads = [
        threading.Thread(target=workers.work, name=f"{name}/{number}", daemon=True)
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
        workers.work()
    finally:
        for thread in started:
            thread.join()
    workers.raise_first()


class _Workers:
    def __init__(self, tasks: Sequence[Callable[[], None]], stop: Cancellation) -> None:
        self._stop = stop
        self._lock = threading.Lock()  # guards _waiting and _errors
        self._waiting = list(reversed(tasks))
        self._errors: list[BaseException] = []

    def work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except BaseException as error:  # raised in the thread that waits for it
                with self._lock:
                    self._errors.append(error)
                    self._waiting.clear()
                self._stop.cancel()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            return self._waiting.pop() if self._waiting else None

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
