"""containerd's kmutex_test.go by its figures, and the fairness that Python's own locks do not have."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import pytest

from fakes.threads import start, together, until
from imgpull.errors import LockTimeoutError, PullCancelledError
from imgpull.locking import Cancellation, KeyedMutex

THREADS = max(4, os.cpu_count() or 1)
LOOPS = 10_000


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """At the default of 5 ms a thread does thousands of loops before another gets a turn, and nothing collides."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def assert_empty(mutex: KeyedMutex) -> None:
    assert (mutex._owners, mutex._queues) == ({}, {})


def test_many_threads_on_one_key() -> None:
    """TestMultiAcquireOnSameKey: 10 000 loops in all threads together, an unguarded counter, an empty table."""
    mutex = KeyedMutex()
    counter = 0

    def count() -> None:
        nonlocal counter
        for _ in range(LOOPS // THREADS):
            with mutex.hold("same"):
                value = counter
                counter = value + 1

    together([count] * THREADS)
    assert counter == LOOPS // THREADS * THREADS
    assert_empty(mutex)


def test_many_threads_on_many_keys() -> None:
    """TestMultileAcquireOnKeys: 10 000 loops in each thread over as many keys as threads."""
    mutex = KeyedMutex()
    counters = [0] * THREADS

    def count(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(LOOPS):
            number = choose.randrange(THREADS)
            with mutex.hold(f"key-{number}"):
                counters[number] += 1

    together([lambda seed=seed: count(seed) for seed in range(THREADS)])
    assert sum(counters) == LOOPS * THREADS
    assert_empty(mutex)


@pytest.mark.parametrize("seed", range(3))
def test_every_way_out_at_random(seed: int) -> None:
    """Granted, timed out, tried, cancelled, failed inside: whatever the mixture, nothing is left."""
    mutex = KeyedMutex()
    inside = [0, 0]
    wrong: list[str] = []

    def play(number: int) -> None:
        choose = random.Random(seed * 1000 + number)
        for _ in range(500):
            key = choose.randrange(2)
            cancel = Cancellation()
            way = choose.choice(["hold", "hold", "try", "short", "cancel", "fail"])
            timeout_seconds = {"try": 0.0, "short": choose.random() / 2000}.get(way)
            canceller = start(cancel.cancel) if way == "cancel" else None
            try:
                with mutex.hold(str(key), timeout_seconds, cancel):
                    inside[key] += 1
                    if inside[key] != 1:
                        wrong.append(f"{inside[key]} inside")
                    inside[key] -= 1
                    if way == "fail":
                        raise ZeroDivisionError
            except (LockTimeoutError, PullCancelledError, ZeroDivisionError):
                pass
            if canceller is not None:
                canceller.done()

    together([lambda number=number: play(number) for number in range(6)])
    assert wrong == []
    assert_empty(mutex)


@pytest.mark.parametrize("waiters", [50, 1_000])
def test_first_come_first_served_without_a_bypass(waiters: int) -> None:
    mutex = KeyedMutex()
    order: list[int] = []

    def enter(number: int) -> None:
        with mutex.hold("key") as held:
            assert held.waited
            order.append(number)

    with mutex.hold("key"):
        workers = []
        for number in range(waiters):
            workers.append(start(lambda n=number: enter(n)))
            until(lambda n=number: mutex.waiters("key") == n + 1, f"thread {number} waits")
    for worker in workers:
        worker.outcome()
    assert [number for place, number in enumerate(order) if place != number] == []
    assert len(order) == waiters
    assert_empty(mutex)


def test_a_thread_that_comes_back_at_once_queues_behind_the_others() -> None:
    """Python's Lock lets the thread that released it take it again before those who wait; a queue does not."""
    mutex = KeyedMutex()
    threads, rounds = 5, 100
    tickets: list[int] = []

    def enter(number: int) -> None:
        for _ in range(rounds):
            with mutex.hold("key"):
                # Everybody else must be queueing by now, or be done: then the order is that of the queue.
                until(lambda: mutex.waiters("key") >= waiting(number), "the others wait")
                tickets.append(number)

    def waiting(number: int) -> int:
        return sum(tickets.count(other) < rounds for other in range(threads) if other != number)

    together([lambda number=number: enter(number) for number in range(threads)])
    assert len(tickets) == threads * rounds
    full_rounds = [tuple(tickets[i : i + threads]) for i in range(0, len(tickets) - threads, threads)]
    assert {len(set(full_round)) for full_round in full_rounds} == {threads}
    assert_empty(mutex)
