"""Trying again: what, how often, how long in between. No test here waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fakes.threads import Worker, until
from imgpull.errors import (
    DigestMismatchError,
    NotFoundError,
    PullCancelledError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
)
from imgpull.locking import Cancellation
from imgpull.registry.retry import Retry, sleep

HOST = "registry.example"


class Failing:
    """Raises the errors it was given, one per call, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def down(after: float | None = None) -> RegistryUnavailableError:
    return RegistryUnavailableError("down", retryable=True, retry_after_seconds=after)


def limited(after: float | None) -> RateLimitedError:
    return RateLimitedError("slow", retryable=True, retry_after_seconds=after)


@pytest.fixture
def retry(clock) -> Retry:  # type: ignore[no-untyped-def]
    return Retry(clock=clock, random=lambda: 1.0, sleep=clock.sleep)


def test_transient_failures_are_tried_five_times_in_all(retry: Retry, clock) -> None:  # type: ignore[no-untyped-def]
    work = Failing(*[down() for _ in range(9)])
    with pytest.raises(RegistryUnavailableError, match="down"):
        retry.call(work, HOST)
    assert work.calls == 5
    assert clock.slept == [0.25, 0.5, 1.0, 2.0]


def test_the_fifth_may_succeed(retry: Retry) -> None:
    assert retry.call(Failing(*[down() for _ in range(4)]), HOST) == "done"


def test_attempts_can_be_fewer(retry: Retry) -> None:
    work = Failing(down(), down(), down())
    with pytest.raises(RegistryUnavailableError):
        retry.call(work, HOST, attempts=2)
    assert work.calls == 2


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("no"),
        RegistryUnavailableError("refused"),
        DigestMismatchError("wrong"),
        PullCancelledError("stop"),
        ValueError("bug"),
    ],
)
def test_what_will_be_the_same_a_second_later_is_not_tried_again(retry: Retry, clock, error: Exception) -> None:  # type: ignore[no-untyped-def]
    work = Failing(error)
    with pytest.raises(type(error)):
        retry.call(work, HOST)
    assert work.calls == 1
    assert clock.slept == []


def test_jitter_is_full(clock) -> None:  # type: ignore[no-untyped-def]
    draws = iter([0.0, 0.5, 1.0, 0.25])
    retry = Retry(clock=clock, random=lambda: next(draws), sleep=clock.sleep)
    retry.call(Failing(*[down() for _ in range(4)]), HOST)
    assert clock.slept == [0.0, 0.25, 1.0, 0.5]


def test_waits_are_capped(retry: Retry) -> None:
    assert retry.delay_seconds(1000, down()) == 60.0


@pytest.mark.parametrize("error", [limited(7), down(7)])
def test_retry_after_is_honoured(retry: Retry, clock, error: RegistryError) -> None:  # type: ignore[no-untyped-def]
    assert retry.call(Failing(error), HOST) == "done"
    assert clock.slept == [8.0]  # 7 and the whole spread


def test_a_retry_after_beyond_the_cap_is_not_waited_for(retry: Retry, clock) -> None:  # type: ignore[no-untyped-def]
    work = Failing(limited(61))
    with pytest.raises(RateLimitedError) as caught:
        retry.call(work, HOST)
    assert caught.value.retry_after_seconds == 61
    assert (work.calls, clock.slept) == (1, [])
    assert retry.call(Failing(), HOST) == "done"
    assert clock.slept == []  # nor is anybody else held off


def test_retry_after_holds_every_thread_off_from_that_host_and_no_other(retry: Retry, clock) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RateLimitedError):
        retry.once(Failing(limited(10)), HOST)
    clock.now += 4
    retry.once(Failing(), "other.example")
    assert clock.slept == []
    retry.once(Failing(), HOST)
    assert clock.slept == [6 + 1.0]
    retry.once(Failing(), HOST)
    assert clock.slept == [6 + 1.0]  # it is over


def test_pause_is_the_same_wait_for_loops_of_others(retry: Retry, clock) -> None:  # type: ignore[no-untyped-def]
    retry.pause(3, down())
    retry.pause(1, limited(5))
    assert clock.slept == [1.0, 6.0]


def test_cancel_before_an_attempt(retry: Retry) -> None:
    cancel, work = Cancellation(), Failing()
    cancel.cancel()
    with pytest.raises(PullCancelledError):
        retry.call(work, HOST, cancel)
    assert work.calls == 0


def test_cancel_ends_the_sleep() -> None:
    cancel = Cancellation()
    worker = Worker(lambda: sleep(3600, cancel))
    worker.start()
    until(lambda: cancel._callbacks, "the sleeper to lie down")
    cancel.cancel()
    assert isinstance(worker.done().error, PullCancelledError)


def test_cancel_ends_the_loop(clock) -> None:  # type: ignore[no-untyped-def]
    cancel = Cancellation()
    work = Failing(down(), down(), down())

    def interrupted(seconds: float, given: Cancellation | None) -> None:
        assert given is cancel
        cancel.cancel()
        cancel.raise_if_cancelled()

    retry = Retry(clock=clock, random=lambda: 1.0, sleep=interrupted)
    with pytest.raises(PullCancelledError):
        retry.call(work, HOST, cancel)
    assert work.calls == 1


def test_one_policy_serves_many_threads(retry: Retry) -> None:
    barrier = threading.Barrier(8)

    def run() -> Callable[[], str]:
        barrier.wait()
        return retry.call(Failing(down(), down()), HOST)  # type: ignore[return-value]

    workers = [Worker(run) for _ in range(8)]
    for worker in workers:
        worker.start()
    assert [worker.done().result for worker in workers] == ["done"] * 8
