"""The threads that fly: bounded, in order, and none left."""

from __future__ import annotations

import threading

import pytest

from fakes.threads import DEADLINE_SECONDS, start, until
from imgpull.fetch import Crew, Workers


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_no_more_than_so_many_at_once_and_first_come_first_served() -> None:
    crew, gate, order, names = Crew(), threading.Event(), [], set()
    workers = Workers(crew, 2, "imgpull-test")

    def run(number: int) -> None:
        order.append(number)
        names.add(threading.current_thread().name)
        assert gate.wait(DEADLINE_SECONDS)

    for number in range(6):
        workers.submit(lambda number=number: run(number))  # type: ignore[misc]
    until(lambda: len(order) == 2, "two run")
    assert len(crew._threads) == 2
    gate.set()
    until(lambda: not crew._threads, "a worker that finds nothing ends")
    assert sorted(order[:2]) == [0, 1]
    assert sorted(order) == list(range(6))
    assert names == {"imgpull-test_0", "imgpull-test_1"}


def test_one_worker_keeps_the_order() -> None:
    crew, order = Crew(), []
    workers, gate = Workers(crew, 1, "imgpull-test"), threading.Event()
    workers.submit(lambda: gate.wait(DEADLINE_SECONDS) and None)
    for number in range(20):
        workers.submit(lambda number=number: order.append(number))  # type: ignore[misc]
    gate.set()
    crew.join()
    assert order == list(range(20))


def test_a_worker_ends_and_another_takes_its_place() -> None:
    crew = Crew()
    workers, done = Workers(crew, 1, "imgpull-test"), []
    for number in range(3):
        workers.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        until(lambda: not crew._threads, "it has ended")
    assert done == [0, 1, 2]


def test_a_thread_that_cannot_be_had_is_an_error_only_where_no_worker_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, gate, done = Crew(), threading.Event(), []
    workers = Workers(crew, 2, "imgpull-test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="start new thread"):
            workers.submit(lambda: done.append("never"))
        assert not crew._threads
    workers.submit(lambda: gate.wait(DEADLINE_SECONDS) and None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        workers.submit(lambda: done.append("later"))
    gate.set()
    crew.join()
    assert done == ["later"]


def test_joining_from_a_thread_of_the_crew_does_not_wait_for_itself() -> None:
    crew, joined = Crew(), threading.Event()

    def run() -> None:
        crew.join()
        joined.set()

    crew.start(run, "imgpull-test")
    assert joined.wait(DEADLINE_SECONDS)


def test_an_interrupted_start_that_started_is_joined_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, gate, ended = Crew(), threading.Event(), threading.Event()
    starting = threading.Thread.start

    def interrupted(self: threading.Thread) -> None:
        starting(self)
        raise KeyboardInterrupt

    def run() -> None:
        assert gate.wait(DEADLINE_SECONDS)
        ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            crew.start(run, "imgpull-test")
    joining = start(crew.join)
    gate.set()
    joining.outcome()
    assert ended.is_set()


def test_an_exit_waits_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the main thread has ended, the interpreter is on its way out."""
    crew, gate = Crew(), threading.Event()
    crew.start(lambda: gate.wait(DEADLINE_SECONDS) and None, "imgpull-test")
    ended = threading.Thread()
    monkeypatch.setattr(threading, "main_thread", lambda: ended)
    monkeypatch.setattr("imgpull.fetch.workers._EXIT_SECONDS", 0.01)
    start(crew.join).outcome()
    gate.set()
