"""Threads for tests: named, started together, joined with a deadline, and their exceptions raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

DEADLINE_SECONDS = 20.0
"""How long a state may take to come about before the test is wrong. No test passes because of this figure."""


def until(state: Callable[[], object], what: str, deadline_seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until ``state()`` is true; fail with ``what`` was waited for after the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while not state():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {deadline_seconds:g} s in vain: {what}")
        time.sleep(0.0005)


class Worker(threading.Thread):
    """A thread that keeps what its function returned or raised."""

    def __init__(self, function: Callable[[], object], name: str = "worker") -> None:
        super().__init__(name=name, daemon=True)
        self.function = function
        self.result: object = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

    def done(self, deadline_seconds: float = DEADLINE_SECONDS) -> Worker:
        """Join; the thread must have ended by then."""
        self.join(deadline_seconds)
        assert not self.is_alive(), f"thread {self.name} still runs after {deadline_seconds:g} s"
        return self

    def outcome(self) -> object:
        """Join, then return what the function returned or raise what it raised."""
        self.done()
        if self.error is not None:
            raise self.error
        return self.result


def start(function: Callable[[], object], name: str = "worker") -> Worker:
    """Start a thread that runs ``function``."""
    worker = Worker(function, name)
    worker.start()
    return worker


def together(functions: Iterable[Callable[[], object]]) -> list[object]:
    """Run each function in a thread of its own, all let go by one barrier; return what they returned."""
    functions = list(functions)
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> object:
        barrier.wait(DEADLINE_SECONDS)
        return function()

    workers = [start(lambda f=function: run(f), f"worker-{number}") for number, function in enumerate(functions)]
    return [worker.outcome() for worker in workers]
