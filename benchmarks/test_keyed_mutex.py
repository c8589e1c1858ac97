"""pytest-benchmark cases: ``python -m pytest benchmarks/test_keyed_mutex.py``. Not collected by ``make test``.

What the keyed mutex costs when nobody waits, and what one hand-over costs: between two threads, beside a thread that
computes in Python, and down a queue of a thousand. Rounds go by gates, not by sleeps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from imgpull.locking import KeyedMutex

_TURNS = 100
_WAITERS = 1000
_KEYS = 100_000
_ROUNDS = 5


def test_hold_and_release_when_nobody_waits(benchmark: BenchmarkFixture) -> None:
    mutex = KeyedMutex()

    def once() -> None:
        with mutex.hold("key"):
            pass

    measured: Any = benchmark  # it carries no types
    measured(once)
    assert len(mutex) == 0


@pytest.fixture
def spinner() -> Iterator[None]:
    """A thread that computes in Python: whoever is woken waits for it to let go of the interpreter's lock."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(100))

    thread = threading.Thread(target=spin, name="spinner")
    thread.start()
    yield
    stop.set()
    thread.join()


def _queued(mutex: KeyedMutex, work: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """Starts a thread for each, which queues for the key in this order; what is returned lets the first one have it,
    and waits for all of them."""
    held = mutex.hold("key")
    held.__enter__()
    threading.stack_size(512 * 1024)
    threads = [threading.Thread(target=one, name=f"waiter-{number}") for number, one in enumerate(work)]
    threading.stack_size(0)
    pause = threading.Event()
    for number, thread in enumerate(threads):
        thread.start()
        while mutex.waiters("key") <= number:
            pause.wait(0.0001)

    def let_go() -> None:
        held.__exit__(None, None, None)
        for thread in threads:
            thread.join()

    return let_go


def _measure_queued(benchmark: BenchmarkFixture, work: Callable[[KeyedMutex], list[Callable[[], None]]]) -> None:
    """From the release that wakes the first until the last has ended."""
    mutex = KeyedMutex()

    def setup() -> tuple[tuple[Callable[[], None]], dict[str, object]]:
        return (_queued(mutex, work(mutex)),), {}

    measured: Any = benchmark
    measured.pedantic(lambda let_go: let_go(), setup=setup, rounds=_ROUNDS, iterations=1)
    assert len(mutex) == 0


def _turns(mutex: KeyedMutex) -> list[Callable[[], None]]:
    """Two threads that take the key in turns: whoever lets go and comes back stands behind the other, so each turn is
    a hand-over, the last few aside."""

    def take_turns() -> None:
        for _ in range(_TURNS):
            with mutex.hold("key"):
                pass

    return [take_turns, take_turns]


def test_hand_over_between_two_threads(benchmark: BenchmarkFixture) -> None:
    """A round is two hundred hand-overs."""
    _measure_queued(benchmark, _turns)


@pytest.mark.usefixtures("spinner")
def test_hand_over_beside_a_spinner(benchmark: BenchmarkFixture) -> None:
    """A round is two hundred hand-overs, each at the mercy of the interpreter's switch interval."""
    _measure_queued(benchmark, _turns)


def test_a_thousand_waiters_are_served(benchmark: BenchmarkFixture) -> None:
    served: list[int] = []

    def waiters(mutex: KeyedMutex) -> list[Callable[[], None]]:
        served.clear()

        def wait(number: int) -> None:
            with mutex.hold("key"):
                served.append(number)

        return [partial(wait, number) for number in range(_WAITERS)]

    _measure_queued(benchmark, waiters)
    assert served == list(range(_WAITERS))


def test_used_keys_leave_nothing(benchmark: BenchmarkFixture) -> None:
    mutex = KeyedMutex()

    def use() -> None:
        for number in range(_KEYS):
            with mutex.hold(f"key-{number}"):
                pass

    measured: Any = benchmark
    measured.pedantic(use, rounds=3, iterations=1)
    assert len(mutex) == 0
