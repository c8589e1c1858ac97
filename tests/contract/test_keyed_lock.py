"""What every keyed lock promises, whatever is behind it (imgpull/locking/protocol.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.threads import start, together, until
from imgpull.errors import LockTimeoutError, PullCancelledError
from imgpull.locking import Cancellation, KeyedLock, KeyedMutex, NoSuppression, ProcessKeys

EXCLUSIVE: dict[str, Callable[[Path], KeyedLock]] = {
    "KeyedMutex": lambda _: KeyedMutex(),
    "ProcessKeys": lambda path: ProcessKeys(path / "keys.lock"),
}
IMPLEMENTATIONS = {**EXCLUSIVE, "NoSuppression": lambda _: NoSuppression()}


def made(make: Callable[[Path], KeyedLock], path: Path) -> Iterator[KeyedLock]:
    lock = make(path)
    yield lock
    if isinstance(lock, ProcessKeys):
        lock.close()


@pytest.fixture(params=IMPLEMENTATIONS)
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyedLock]:
    yield from made(IMPLEMENTATIONS[request.param], tmp_path)


@pytest.fixture(params=EXCLUSIVE)
def exclusive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyedLock]:
    yield from made(EXCLUSIVE[request.param], tmp_path)


class TestEveryKeyedLock:
    def test_entering_a_free_key_tells_the_key_and_that_nobody_was_waited_for(self, lock: KeyedLock) -> None:
        with lock.hold("blob://a") as held:
            assert held.key == "blob://a"
            assert held.waited is False
            assert len(lock) == (1 if lock.exclusive else 0)
            assert lock.waiters("blob://a") == 0
        assert len(lock) == 0

    def test_two_keys_are_held_at_once_by_one_thread(self, lock: KeyedLock) -> None:
        with lock.hold("a"), lock.hold("b"):
            assert len(lock) == (2 if lock.exclusive else 0)
        assert len(lock) == 0

    def test_describing_a_hold_acquires_nothing(self, lock: KeyedLock) -> None:
        lock.hold("a")
        assert len(lock) == 0

    def test_an_exception_in_the_block_passes_and_the_key_is_free(self, lock: KeyedLock) -> None:
        with pytest.raises(ZeroDivisionError), lock.hold("a"):
            _ = 1 / 0
        with lock.hold("a", timeout_seconds=0):
            pass
        assert len(lock) == 0

    @pytest.mark.parametrize("timeout_seconds", [0, -1, 0.01, 10, float("inf"), None])
    def test_a_free_key_is_had_whatever_the_timeout(self, lock: KeyedLock, timeout_seconds: float | None) -> None:
        with lock.hold("a", timeout_seconds=timeout_seconds):
            pass

    def test_cancelled_before_it_is_entered_fails_even_on_a_free_key(self, lock: KeyedLock) -> None:
        cancel = Cancellation()
        cancel.cancel()
        with pytest.raises(PullCancelledError), lock.hold("a", cancel=cancel):
            pytest.fail("entered")
        assert len(lock) == 0

    def test_cancelling_after_it_was_entered_changes_nothing(self, lock: KeyedLock) -> None:
        cancel = Cancellation()
        with lock.hold("a", cancel=cancel):
            cancel.cancel()
        assert len(lock) == 0

    def test_nobody_waits_for_a_key_that_was_never_held(self, lock: KeyedLock) -> None:
        assert lock.waiters("never") == 0

    def test_many_threads_pass_through_and_leave_nothing(self, lock: KeyedLock) -> None:
        def pass_through() -> None:
            for number in range(200):
                with lock.hold(f"key-{number % 3}"):
                    pass

        together([pass_through] * 4)
        assert len(lock) == 0
        assert [lock.waiters(f"key-{number}") for number in range(3)] == [0, 0, 0]


class TestEveryExclusiveKeyedLock:
    def test_it_says_so(self, exclusive: KeyedLock) -> None:
        assert exclusive.exclusive is True

    def test_one_holder_at_a_time(self, exclusive: KeyedLock) -> None:
        inside = most = 0

        def enter() -> None:
            nonlocal inside, most
            for _ in range(200):
                with exclusive.hold("a"):
                    inside += 1
                    most = max(most, inside)
                    inside -= 1

        together([enter] * 4)
        assert (most, inside, len(exclusive)) == (1, 0, 0)

    def test_a_second_thread_waits_and_is_told_that_it_waited(self, exclusive: KeyedLock) -> None:
        with exclusive.hold("a"):
            second = start(lambda: _waited(exclusive, "a"))
            until(lambda: exclusive.waiters("a") == 1, "the second thread waits")
            assert len(exclusive) == 1
        assert second.outcome() is True
        assert len(exclusive) == 0

    def test_an_endless_timeout_waits(self, exclusive: KeyedLock) -> None:
        with exclusive.hold("a"):
            second = start(lambda: _waited(exclusive, "a", timeout_seconds=float("inf")))
            until(lambda: exclusive.waiters("a") == 1 or not second.is_alive(), "the second thread waits")
        assert second.outcome() is True

    def test_another_key_does_not_wait(self, exclusive: KeyedLock) -> None:
        with exclusive.hold("a"):
            assert start(lambda: _waited(exclusive, "b")).outcome() is False

    def test_first_come_first_served(self, exclusive: KeyedLock) -> None:
        order: list[int] = []

        def enter(number: int) -> None:
            with exclusive.hold("a"):
                order.append(number)

        with exclusive.hold("a"):
            workers = []
            for number in range(10):
                workers.append(start(lambda n=number: enter(n)))
                until(lambda n=number: exclusive.waiters("a") == n + 1, f"thread {number} waits")
        for worker in workers:
            worker.outcome()
        assert order == list(range(10))

    @pytest.mark.parametrize("timeout_seconds", [0, -1, 0.01])
    def test_a_key_that_is_not_free_in_time(self, exclusive: KeyedLock, timeout_seconds: float) -> None:
        with exclusive.hold("a"):
            second = start(lambda: _waited(exclusive, "a", timeout_seconds=timeout_seconds))
            with pytest.raises(LockTimeoutError) as caught:
                second.outcome()
            assert caught.value.key == "a"
            assert exclusive.waiters("a") == 0
        assert len(exclusive) == 0

    def test_cancel_while_waiting(self, exclusive: KeyedLock) -> None:
        cancel = Cancellation()
        with exclusive.hold("a"):
            second = start(lambda: _waited(exclusive, "a", cancel=cancel))
            until(lambda: exclusive.waiters("a") == 1, "the second thread waits")
            cancel.cancel()
            with pytest.raises(PullCancelledError):
                second.outcome()
            assert exclusive.waiters("a") == 0
        assert len(exclusive) == 0

    def test_a_cancelled_waiter_leaves_the_others_in_order(self, exclusive: KeyedLock) -> None:
        cancel = Cancellation()
        order: list[str] = []

        def enter(name: str, cancel: Cancellation | None = None) -> None:
            with exclusive.hold("a", cancel=cancel):
                order.append(name)

        with exclusive.hold("a"):
            workers = []
            for number, name in enumerate(("first", "cancelled", "last")):
                own = cancel if name == "cancelled" else None
                workers.append(start(lambda n=name, c=own: enter(n, c)))
                until(lambda n=number: exclusive.waiters("a") == n + 1, f"{name} waits")
            cancel.cancel()
            with pytest.raises(PullCancelledError):
                workers[1].outcome()
        workers[0].outcome()
        workers[2].outcome()
        assert order == ["first", "last"]

    def test_holding_twice_raises_and_the_first_hold_stands(self, exclusive: KeyedLock) -> None:
        with exclusive.hold("a"):
            with pytest.raises(RuntimeError, match="already"), exclusive.hold("a"):
                pytest.fail("entered")
            with pytest.raises(LockTimeoutError):
                start(lambda: _waited(exclusive, "a", timeout_seconds=0)).outcome()
        assert len(exclusive) == 0

    def test_releasing_what_was_never_held_raises(self, exclusive: KeyedLock) -> None:
        with pytest.raises(RuntimeError, match="release"):
            exclusive.hold("a").__exit__(None, None, None)

    def test_releasing_twice_raises(self, exclusive: KeyedLock) -> None:
        hold = exclusive.hold("a")
        with hold:
            pass
        with pytest.raises(RuntimeError, match="release"):
            hold.__exit__(None, None, None)
        assert len(exclusive) == 0

    def test_releasing_twice_does_not_free_the_next_holder_s_key(self, exclusive: KeyedLock) -> None:
        hold = exclusive.hold("a")
        with hold:
            pass
        with exclusive.hold("a"):
            with pytest.raises(RuntimeError, match="release"):
                hold.__exit__(None, None, None)
            with pytest.raises(LockTimeoutError):
                start(lambda: _waited(exclusive, "a", timeout_seconds=0)).outcome()

    def test_a_hold_is_entered_once(self, exclusive: KeyedLock) -> None:
        hold = exclusive.hold("a")
        with hold:
            pass
        with pytest.raises(RuntimeError, match="entered before"), hold:
            pytest.fail("entered")
        assert len(exclusive) == 0

    def test_the_key_of_a_dead_holder_goes_to_the_waiter(self, exclusive: KeyedLock) -> None:
        may_die = Cancellation()

        def hold_and_die() -> None:
            exclusive.hold("a").__enter__()
            may_die.wait()

        holder = start(hold_and_die)
        until(lambda: len(exclusive) == 1, "the key is held")
        waiter = start(lambda: _waited(exclusive, "a"))
        until(lambda: exclusive.waiters("a") == 1, "the other waits")
        may_die.cancel()
        holder.done()
        assert waiter.outcome() is True
        assert len(exclusive) == 0

    def test_the_key_of_a_dead_holder_is_free_for_a_newcomer(self, exclusive: KeyedLock) -> None:
        start(lambda: exclusive.hold("a").__enter__()).done()
        until(lambda: len(exclusive) == 0, "the key of the dead is given up")
        with exclusive.hold("a", timeout_seconds=0):
            pass


def _waited(
    lock: KeyedLock, key: str, timeout_seconds: float | None = None, cancel: Cancellation | None = None
) -> bool:
    with lock.hold(key, timeout_seconds, cancel) as held:
        return held.waited
