"""Tasks begun by a bounded number of threads, half of them in order and half the largest first."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import pytest

from fakes.threads import start
from imgpull.locking import Cancellation
from imgpull.unpack.workers import run_all


def test_a_task_may_wait_for_an_earlier_one() -> None:
    done = [threading.Event() for _ in range(9)]

    def task(number: int) -> None:
        if number:
            assert done[number - 1].wait(20)
        done[number].set()

    start(lambda: run_all([(lambda n=n: task(n), 1) for n in range(9)], 4, Cancellation())).outcome()  # type: ignore[misc]
    assert all(event.is_set() for event in done)


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("sizes", [range(40), range(40, 0, -1), [number * 17 % 40 for number in range(40)]])
def test_each_task_waits_for_the_one_before_whatever_their_sizes(sizes: Sequence[int], threads: int) -> None:
    done = [threading.Event() for _ in sizes]

    def task(number: int) -> None:
        if number:
            assert done[number - 1].wait(20)
        done[number].set()

    tasks = [(partial(task, number), size) for number, size in enumerate(sizes)]
    start(lambda: run_all(tasks, threads, Cancellation())).outcome()
    assert all(event.is_set() for event in done)


def test_the_largest_is_begun_at_once() -> None:
    begun, gate = list[int](), threading.Event()

    def task(number: int) -> None:
        begun.append(number)
        if len(begun) == 2:
            gate.set()
        assert gate.wait(20)

    tasks = [(partial(task, number), number) for number in range(9)]
    start(lambda: run_all(tasks, 2, Cancellation())).outcome()
    assert set(begun[:2]) == {0, 8}


def test_fewer_threads_where_no_more_are_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        run_all([(lambda n=n: done.append(n), n) for n in range(5)], 4, Cancellation())  # type: ignore[misc]
    assert done == [0, 1, 2, 3, 4]


def test_one_task_starts_no_thread() -> None:
    names: list[str] = []
    run_all([(lambda: names.append(threading.current_thread().name), 1)], 4, Cancellation())
    assert names == [threading.current_thread().name]


def test_an_error_that_reaches_two_threads_is_no_note_of_itself() -> None:
    error = ValueError("the same")
    both = threading.Barrier(2)
    stop = Cancellation()

    def task() -> None:
        both.wait(20)
        raise error

    with pytest.raises(ValueError, match="the same"):
        start(
            lambda: run_all([(task, 2), (task, 2), (lambda: pytest.fail("begun after an error"), 1)], 2, stop)
        ).outcome()
    assert stop.cancelled and not getattr(error, "__notes__", [])
