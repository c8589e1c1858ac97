"""Threads that fly: daemons, counted, so that a store can end with none of them left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from imgpull.errors import StoreError

__all__ = ["Threads"]

_EXIT_SECONDS = 1.0
"""How long an interpreter that exits waits for work to notice that it was cancelled; partials outlive it anyway."""


class Threads:
    """The threads that work on one store, whoever asked. Their work may be several callers', so only the store waits.

    Daemons, unlike the workers of ``concurrent.futures``, which an exit joins: it would wait for a pull nobody wants.
    """

    def __init__(self) -> None:
        # Guards _threads and _dismissed. Held while a thread starts: one that is listed can be joined.
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._dismissed = False

    def start(self, run: Callable[[], None], name: str) -> threading.Thread:
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
        return thread

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
