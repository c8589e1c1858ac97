from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import weakref

import pytest

from fakes.threads import start, together, until
from imgpull.errors import PullCancelledError
from imgpull.locking import Cancellation


class TestSwitch:
    def test_goes_on_once_and_stays(self) -> None:
        cancel = Cancellation()
        assert not cancel.cancelled
        cancel.raise_if_cancelled()
        cancel.cancel()
        cancel.cancel()
        assert cancel.cancelled
        with pytest.raises(PullCancelledError, match="cancelled by the caller"):
            cancel.raise_if_cancelled()

    def test_repr(self) -> None:
        cancel = Cancellation()
        assert repr(cancel) == "<Cancellation not cancelled>"
        cancel.cancel()
        assert repr(cancel) == "<Cancellation cancelled>"


class TestCallbacks:
    def test_run_once_in_order_in_the_cancelling_thread(self) -> None:
        cancel = Cancellation()
        calls: list[tuple[str, str]] = []
        for name in "abc":
            cancel.add_callback(lambda n=name: calls.append((n, threading.current_thread().name)))
        start(cancel.cancel, "canceller").outcome()
        cancel.cancel()
        assert calls == [("a", "canceller"), ("b", "canceller"), ("c", "canceller")]

    def test_the_switch_is_on_before_the_first_runs(self) -> None:
        cancel = Cancellation()
        seen: list[bool] = []
        cancel.add_callback(lambda: seen.append(cancel.cancelled))
        cancel.cancel()
        assert seen == [True]

    def test_added_late_runs_at_once_and_here(self) -> None:
        cancel = Cancellation()
        cancel.cancel()
        calls: list[str] = []
        remove = cancel.add_callback(lambda: calls.append(threading.current_thread().name))
        remove()
        assert calls == [threading.current_thread().name]

    def test_taken_back_does_not_run(self) -> None:
        cancel = Cancellation()
        calls: list[str] = []
        remove = cancel.add_callback(lambda: calls.append("no"))
        cancel.add_callback(lambda: calls.append("yes"))
        remove()
        remove()
        cancel.cancel()
        assert calls == ["yes"]

    def test_the_same_function_twice_runs_twice(self) -> None:
        cancel = Cancellation()
        calls: list[int] = []

        def callback() -> None:
            calls.append(1)

        first = cancel.add_callback(callback)
        cancel.add_callback(callback)
        first()
        cancel.add_callback(callback)
        cancel.cancel()
        assert calls == [1, 1]

    def test_one_that_fails_is_logged_and_the_next_runs(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "imgpull.locking")
        cancel = Cancellation()
        calls: list[str] = []
        cancel.add_callback(lambda: 1 / 0)
        cancel.add_callback(lambda: calls.append("next"))
        cancel.cancel()
        assert calls == ["next"]
        assert [record.getMessage() for record in caplog.records] == ["a callback on cancel failed"]
        assert "ZeroDivisionError" in caplog.text

    def test_an_interrupt_leaves_the_rest_for_the_next_cancel(self) -> None:
        cancel = Cancellation()
        calls: list[str] = []

        def interrupted() -> None:
            raise KeyboardInterrupt

        cancel.add_callback(interrupted)
        cancel.add_callback(lambda: calls.append("rest"))
        with pytest.raises(KeyboardInterrupt):
            cancel.cancel()
        assert calls == []
        cancel.cancel()
        assert calls == ["rest"]

    def test_may_add_another_while_running(self) -> None:
        cancel = Cancellation()
        calls: list[str] = []
        cancel.add_callback(lambda: cancel.add_callback(lambda: calls.append("inner")))
        cancel.cancel()
        assert calls == ["inner"]

    def test_each_runs_exactly_once_whoever_comes_first(self) -> None:
        for _ in range(50):
            cancel = Cancellation()
            counts = [0] * 3

            def add(number: int, cancel: Cancellation = cancel, counts: list[int] = counts) -> None:
                def callback() -> None:
                    counts[number] += 1

                cancel.add_callback(callback)

            together([lambda: add(0), cancel.cancel, lambda: add(1), cancel.cancel, lambda: add(2)])
            until(lambda counts=counts: counts == [1, 1, 1], f"each once, not {counts}")


class TestWait:
    def test_returns_false_when_the_time_is_over(self) -> None:
        cancel = Cancellation()
        assert cancel.wait(0) is False
        assert cancel.wait(-1) is False
        assert cancel.wait(0.001) is False
        assert len(cancel._callbacks) == 0

    def test_returns_true_at_once_when_cancelled(self) -> None:
        cancel = Cancellation()
        cancel.cancel()
        assert cancel.wait() is True
        assert cancel.wait(0) is True

    @pytest.mark.parametrize("timeout_seconds", [None, 1_000, float("inf")])
    def test_is_ended_by_cancel(self, timeout_seconds: float | None) -> None:
        cancel = Cancellation()
        waiters = [start(lambda: cancel.wait(timeout_seconds)) for _ in range(3)]
        until(lambda: len(cancel._callbacks) == 3, "three wait")
        cancel.cancel()
        assert [waiter.outcome() for waiter in waiters] == [True] * 3
        assert len(cancel._callbacks) == 0

    def test_a_signal_handler_may_cancel_the_thread_that_waits(self) -> None:
        cancel = Cancellation()
        before = signal.signal(signal.SIGUSR1, lambda *_: cancel.cancel())
        try:
            killer = start(
                lambda: (until(lambda: cancel._callbacks, "main waits"), os.kill(os.getpid(), signal.SIGUSR1))
            )
            assert cancel.wait(20) is True
            killer.outcome()
        finally:
            signal.signal(signal.SIGUSR1, before)


class TestChild:
    def test_is_cancelled_with_its_parent(self) -> None:
        parent = Cancellation()
        child = parent.child()
        parent.cancel()
        assert child.cancelled

    def test_leaves_its_parent_alone(self) -> None:
        parent = Cancellation()
        child, sibling = parent.child(), parent.child()
        child.cancel()
        assert (parent.cancelled, sibling.cancelled) == (False, False)

    def test_of_a_cancelled_parent_is_born_cancelled(self) -> None:
        parent = Cancellation()
        parent.cancel()
        assert parent.child().cancelled

    def test_a_grandchild_is_reached_though_nobody_keeps_the_child(self) -> None:
        parent = Cancellation()
        grandchild = parent.child().child()
        gc.collect()
        parent.cancel()
        assert grandchild.cancelled

    def test_a_parent_collects_no_children(self) -> None:
        parent = Cancellation()
        child = parent.child()
        gone = weakref.ref(child)
        assert len(parent._callbacks) == 1
        del child
        gc.collect()
        assert gone() is None
        assert len(parent._callbacks) == 0
