"""Work that many threads want: one does it, who waited shares it, only a success is kept."""

from __future__ import annotations

import threading

import pytest

from fakes.threads import Worker, until
from imgpull.errors import PullCancelledError, UnauthorizedError
from imgpull.locking import Cancellation
from imgpull.registry import shared
from imgpull.registry.shared import SharedWork

KEY = "token://a"


def always(value: int) -> bool:
    return True


class Working:
    """Work that waits for the test and then returns or raises."""

    def __init__(self, *outcomes: int | Exception) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0
        self.go = threading.Event()

    def __call__(self) -> int:
        self.calls += 1
        outcome = self.outcomes.pop(0)
        self.go.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def crowd(work: SharedWork[int], working: Working, size: int, cancel: Cancellation | None = None) -> list[Worker]:
    """One thread that works, started first, and ``size - 1`` that wait for it."""
    workers = [Worker(lambda: work.get(KEY, always, working, cancel), f"asker-{number}") for number in range(size)]
    workers[0].start()
    until(lambda: working.calls == 1, "the first to work")
    for worker in workers[1:]:
        worker.start()
    until(lambda: work._keys.waiters(KEY) == size - 1, "the others to wait")
    return workers


def test_one_success_is_everybodys_and_is_kept() -> None:
    work, working = SharedWork[int](), Working(7)
    workers = crowd(work, working, 32)
    working.go.set()
    assert [worker.done().result for worker in workers] == [7] * 32
    assert work.get(KEY, always, working) == 7
    assert working.calls == 1


def test_one_failure_is_everybodys_who_waited_each_with_an_object_of_its_own_and_is_not_kept() -> None:
    work, working = SharedWork[int](), Working(UnauthorizedError("no", status=401), 7)
    workers = crowd(work, working, 32)
    working.go.set()
    errors = [worker.done().error for worker in workers]
    assert all(isinstance(error, UnauthorizedError) and error.status == 401 for error in errors)
    assert len({id(error) for error in errors}) == 32
    assert working.calls == 1
    assert work.get(KEY, always, working) == 7


def test_a_cancelled_worker_leaves_the_work_to_the_next() -> None:
    work, working = SharedWork[int](), Working(PullCancelledError("mine alone"), 7)
    workers = crowd(work, working, 8)
    working.go.set()
    assert isinstance(workers[0].done().error, PullCancelledError)
    assert [worker.done().result for worker in workers[1:]] == [7] * 7
    assert working.calls == 2


def test_a_cancelled_waiter_leaves_and_the_work_goes_on() -> None:
    work, working, cancel = SharedWork[int](), Working(7), Cancellation()
    workers = crowd(work, working, 1)
    waiter = Worker(lambda: work.get(KEY, always, working, cancel))
    waiter.start()
    until(lambda: work._keys.waiters(KEY) == 1, "it to wait")
    cancel.cancel()
    assert isinstance(waiter.done().error, PullCancelledError)
    working.go.set()
    assert workers[0].done().result == 7


def test_a_bug_is_not_shared() -> None:
    work, working = SharedWork[int](), Working(ZeroDivisionError(), 7)
    workers = crowd(work, working, 2)
    working.go.set()
    assert isinstance(workers[0].done().error, ZeroDivisionError)
    assert workers[1].done().result == 7


def test_what_is_no_longer_usable_is_made_anew() -> None:
    work, working = SharedWork[int](), Working(1, 2)
    working.go.set()
    assert work.get(KEY, always, working) == 1
    assert work.get(KEY, lambda value: value > 1, working) == 2


def test_keys_are_apart() -> None:
    work, working = SharedWork[int](), Working(1, 2)
    working.go.set()
    assert (work.get("a", always, working), work.get("b", always, working)) == (1, 2)


def test_there_is_an_end_to_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_CROWDED", 8)
    work = SharedWork[int]()
    for number in range(100):
        work.get(str(number), lambda value, number=number: value == number, lambda number=number: number)
    assert len(work._outcomes) <= 9
