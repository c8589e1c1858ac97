"""Workers: bounded, in order, and no work forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fakes.threads import DEADLINE_SECONDS, Worker, start, until
from imgpull.fetch import Workers
from imgpull.locking import Threads


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_no_more_than_so_many_at_once_and_first_come_first_served() -> None:
    threads, gate, order, names = Threads(), threading.Event(), [], set()
    workers = Workers(threads, 2, "imgpull-test")

    def run(number: int) -> None:
        order.append(number)
        names.add(threading.current_thread().name)
        assert gate.wait(DEADLINE_SECONDS)

    for number in range(6):
        workers.submit(lambda number=number: run(number))  # type: ignore[misc]
    until(lambda: len(order) == 2, "two run")
    assert len(threads._threads) == 2
    gate.set()
    until(lambda: not threads._threads, "a worker that finds nothing ends")
    assert sorted(order[:2]) == [0, 1]
    assert sorted(order) == list(range(6))
    assert names == {"imgpull-test"}


def test_one_worker_keeps_the_order() -> None:
    threads, order = Threads(), []
    workers, gate = Workers(threads, 1, "imgpull-test"), threading.Event()
    workers.submit(lambda: gate.wait(DEADLINE_SECONDS) and None)
    for number in range(20):
        workers.submit(lambda number=number: order.append(number))  # type: ignore[misc]
    gate.set()
    threads.join()
    assert order == list(range(20))


def test_a_worker_ends_and_another_takes_its_place() -> None:
    threads = Threads()
    workers, done = Workers(threads, 1, "imgpull-test"), []
    for number in range(3):
        workers.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        until(lambda: not threads._threads, "it has ended")
    assert done == [0, 1, 2]


def test_a_thread_that_cannot_be_had_is_an_error_only_where_no_worker_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, gate, done = Threads(), threading.Event(), []
    workers = Workers(threads, 2, "imgpull-test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="start new thread"):
            workers.submit(lambda: done.append("never"))
        assert not threads._threads
    workers.submit(lambda: gate.wait(DEADLINE_SECONDS) and None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        workers.submit(lambda: done.append("later"))
    gate.set()
    threads.join()
    assert done == ["later"]


def test_nothing_is_accepted_that_no_worker_will_run() -> None:
    """Two submit at once, and neither gets a thread: neither may rely on the other's."""
    both, told = threading.Event(), threading.Event()
    others: list[Worker] = []

    class Full(Threads):
        def start(self, run: Callable[[], None], name: str) -> threading.Thread:
            if not others:
                others.append(start(submit, "other"))
                until(lambda: both.is_set() or workers._lock.locked(), "the other is here, or kept out")
            else:
                both.set()
                assert told.wait(DEADLINE_SECONDS)
            raise RuntimeError("can't start new thread")

    def submit() -> None:
        try:
            with pytest.raises(RuntimeError, match="start new thread"):
                workers.submit(lambda: None)
        finally:
            told.set()

    workers = Workers(Full(), 2, "imgpull-test")
    submit()
    others[0].outcome()
    assert not workers._queue


def test_one_who_stands_aside_gives_its_place_away_and_ends() -> None:
    threads, gate, order = Threads(), threading.Event(), list[str]()
    workers, queued = Workers(threads, 1, "imgpull-test"), threading.Event()

    def first() -> None:
        assert queued.wait(DEADLINE_SECONDS)
        workers.stand_aside()
        assert gate.wait(DEADLINE_SECONDS)
        order.append("first")

    def second() -> None:
        order.append("second")
        gate.set()

    workers.submit(first)
    workers.submit(second)
    queued.set()
    until(lambda: not threads._threads, "both have ended")
    assert order == ["second", "first"]
    assert not workers._running


def test_standing_aside_for_nobody_leaves_the_place_free() -> None:
    threads, order = Threads(), list[int]()
    workers = Workers(threads, 1, "imgpull-test")

    def aside() -> None:
        workers.stand_aside()
        workers.submit(lambda: order.append(1))
        until(lambda: order, "another runs meanwhile")

    workers.submit(aside)
    until(lambda: order and not threads._threads, "both have ended")
