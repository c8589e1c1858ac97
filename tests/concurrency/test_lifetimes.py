"""Who waits for whom when Pullers, stores, processes and interpreters end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import imgpull
from fakes.images import Image, build
from fakes.registry import FakeRegistry
from fakes.threads import DEADLINE_SECONDS, start, until
from fakes.wire import Gate
from imgpull.calls import Call
from imgpull.locking import Flights, Seat
from imgpull.traffic import Traffic

IMAGES = [{"etc/os-release": "ID=fake\n", "bin/sh": b"shell" * 5_000}, {"etc/more": "1"}]


def halfway(registry: FakeRegistry) -> tuple[str, Image, Gate]:
    """A reference whose first layer stops after ten bytes, until the gate is opened."""
    image = build(IMAGES)
    registry.add(image)
    return f"{registry.address}/library/fake", image, registry.block(image.layers[0].digest, at=10)


def joined(puller: imgpull.Puller, flights: int = 1) -> None:
    until(lambda: sum(len(f._seats) for f in puller._traffic.pulls._live.values()) > flights, "the other has joined")


# A Puller's close, and its store's


def test_closing_a_puller_waits_for_its_own_calls_and_not_for_work_that_others_want(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    """The first Puller's handle on the store is closed as well: its flight goes on for the second's caller."""
    reference, image, gate = halfway(registry)
    with imgpull.Puller(store) as second:
        with imgpull.Store(store.root, durability="none") as handle, imgpull.Puller(handle) as first:
            mine = first.submit(reference)
            gate.wait_reached()
            theirs = second.submit(reference)
            joined(second)
            assert mine.cancel()
            start(first.close, "closing").outcome()
        assert not theirs.done()
        gate.open()
        assert theirs.result(DEADLINE_SECONDS).chain_id in store.snapshots
    assert registry.count("GET", image.layers[0].digest) == 1


def test_closing_a_puller_waits_for_its_own_calls(registry: FakeRegistry, store: imgpull.Store) -> None:
    reference, _, gate = halfway(registry)
    puller = imgpull.Puller(store)
    future = puller.submit(reference)
    gate.wait_reached()
    closing = start(puller.close)
    until(lambda: puller._closed and future._waiters, "it waits for the call")  # type: ignore[attr-defined]
    assert closing.is_alive()
    gate.open()
    closing.outcome()
    assert future.done()


def test_traffic_is_closed_when_its_threads_have_ended() -> None:
    traffic, gate = Traffic(), threading.Event()
    traffic.threads.start(lambda: gate.wait(DEADLINE_SECONDS) and None, "imgpull-test")
    closing = start(traffic.close)
    until(lambda: traffic.threads._dismissed, "it closes")
    assert closing.is_alive()
    gate.set()
    closing.outcome()


def test_a_call_that_has_ended_keeps_neither_seat_nor_callback() -> None:
    call, cancel = Call(None), imgpull.Cancellation()
    flights: Flights[None] = Flights()

    def board() -> Seat[None]:
        seat = flights.board("key", lambda _: None, lambda _: None, lambda *_: None)
        call.leave()
        return seat

    call.sit(board)
    assert all(flight._deserted for flight in flights._live.values())
    call.listen(cancel)
    assert not cancel._callbacks


def test_the_one_call_form_is_left_while_another_puller_wants_the_work(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGPULL_HOME", str(tmp_path / "home"))
    reference, image, gate = halfway(registry)
    cancel = imgpull.Cancellation()

    def one_call() -> None:
        with pytest.raises(imgpull.PullCancelledError):
            imgpull.pull(reference, cancel=cancel)

    ahead = start(one_call)
    gate.wait_reached()
    with imgpull.Store() as store, imgpull.Puller(store) as puller:
        theirs = puller.submit(reference)
        joined(puller)
        cancel.cancel()
        ahead.outcome()
        assert not theirs.done()
        gate.open()
        assert theirs.result(DEADLINE_SECONDS).digest == image.digest


def test_closing_the_store_ends_work_that_nobody_waits_for(registry: FakeRegistry, tmp_path: Path) -> None:
    reference, _, gate = halfway(registry)
    store = imgpull.Store(tmp_path / "store", durability="none")
    puller = imgpull.Puller(store)
    future = puller.submit(reference)
    gate.wait_reached()
    store.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("imgpull")]
    assert isinstance(future.exception(0), imgpull.PullCancelledError)
    with pytest.raises(imgpull.StoreError, match="closed"):
        puller.pull(reference)
    puller.close()
    with imgpull.Store(tmp_path / "store") as again:
        assert again.images.list() == []
        assert list(again.snapshots.walk()) == []


# The process's end, and a fork

EXITS = """
import sys, threading, imgpull
from imgpull.events import BlobRequested
halfway = threading.Event()
store = imgpull.Store(sys.argv[2])
puller = imgpull.Puller(store)
def progress(event):
    if isinstance(event, BlobRequested) and event.digest == sys.argv[3]:
        halfway.set()
puller.submit(sys.argv[1], progress=progress)
assert halfway.wait(20)
"""


def test_an_interpreter_exits_in_the_middle_of_a_pull(registry: FakeRegistry, tmp_path: Path) -> None:
    reference, image, gate = halfway(registry)
    command = [sys.executable, "-c", EXITS, reference, str(tmp_path / "store"), image.layers[0].digest]
    child = subprocess.run(command, timeout=60, capture_output=True, check=False, text=True)
    gate.open()
    assert (child.returncode, child.stderr) == (0, "")


def in_a_child(check: Callable[[], object]) -> int:
    """Forks; returns the child's exit code, 0 where ``check`` raised nothing."""
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # a child that hangs is killed
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_puller_in_a_forked_child_says_so_and_does_not_hang(registry: FakeRegistry, store: imgpull.Store) -> None:
    reference, _, gate = halfway(registry)
    with imgpull.Puller(store) as puller:
        future = puller.submit(reference)
        gate.wait_reached()

        def check() -> None:
            for use in (puller.pull, puller.submit, puller.resolve):
                with pytest.raises(RuntimeError, match="forked"):
                    use(reference)
            puller.__exit__(KeyError, KeyError(), None)

        (call,) = puller._calls
        with puller._lock, call._lock, future._condition:  # type: ignore[attr-defined]
            # as other threads may hold them in the moment of the fork
            assert in_a_child(check) == 0
        gate.open()
        assert future.result(DEADLINE_SECONDS)


# A cancel from a signal handler


@pytest.mark.parametrize("lock", ["call", "flights", "future", "puller", "blobs"])
def test_a_cancel_under_any_lock_of_this_thread(registry: FakeRegistry, store: imgpull.Store, lock: str) -> None:
    """As from a signal handler that interrupts this thread inside the lock."""
    reference, _, gate = halfway(registry)
    cancel = imgpull.Cancellation()
    with imgpull.Puller(store) as puller:
        future = puller.submit(reference, cancel=cancel)
        gate.wait_reached()
        (call,) = puller._calls
        locks = {
            "call": call._lock,
            "flights": puller._traffic.pulls._lock,
            "future": future._condition,  # type: ignore[attr-defined]
            "puller": puller._lock,
            "blobs": puller._traffic.blobs._lock,
        }

        def handler() -> None:
            with locks[lock]:
                cancel.cancel()

        start(handler, "interrupted").outcome()
        with pytest.raises(imgpull.PullCancelledError):
            future.result(DEADLINE_SECONDS)


def test_a_signal_handler_cancels_the_pull_that_it_interrupts(registry: FakeRegistry, store: imgpull.Store) -> None:
    reference, _, gate = halfway(registry)
    cancel = imgpull.Cancellation()
    before = signal.signal(signal.SIGUSR1, lambda *_: cancel.cancel())

    def send() -> None:
        gate.wait_reached()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)  # the kernel may choose another one

    sender = start(send, "sender")
    try:
        with imgpull.Puller(store) as puller, pytest.raises(imgpull.PullCancelledError):
            puller.pull(reference, cancel=cancel)
    finally:
        sender.outcome()
        signal.signal(signal.SIGUSR1, before)


def test_a_cancel_just_before_the_caller_sleeps_is_not_lost(
    registry: FakeRegistry, store: imgpull.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler runs where result() has looked and not yet begun to wait: a notify there wakes nobody."""
    reference, _, gate = halfway(registry)
    cancel = imgpull.Cancellation()

    puller = imgpull.Puller(store)

    def pull() -> None:
        with puller, pytest.raises(imgpull.PullCancelledError):
            puller.pull(reference, cancel=cancel)

    sleeping = threading.Condition.wait

    def wait(self: threading.Condition, timeout: float | None = None) -> bool:
        if any(self is call.future._condition for call in puller._calls):  # type: ignore[attr-defined]
            cancel.cancel()
        return sleeping(self, timeout)

    monkeypatch.setattr(threading.Condition, "wait", wait)
    start(pull, "caller").outcome()
    gate.open()


def test_a_cancel_is_not_lost_for_want_of_a_thread(
    registry: FakeRegistry, store: imgpull.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _, gate = halfway(registry)
    cancel = imgpull.Cancellation()
    with imgpull.Puller(store) as puller:
        future = puller.submit(reference, cancel=cancel)
        gate.wait_reached()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            cancel.cancel()
        with pytest.raises(imgpull.PullCancelledError):
            future.result(0)


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# The beginning of a call


def test_many_timeouts_cost_one_thread_which_ends_with_the_calls(registry: FakeRegistry, store: imgpull.Store) -> None:
    reference, _, gate = halfway(registry)
    with imgpull.Puller(store) as puller:
        futures = [puller.submit(reference, timeout_seconds=60) for _ in range(20)]
        gate.wait_reached()
        assert len([thread for thread in threading.enumerate() if "timeout" in thread.name]) == 1
        gate.open()
        for future in futures:
            assert future.result(DEADLINE_SECONDS)
        until(lambda: not [thread for thread in threading.enumerate() if "timeout" in thread.name], "it has ended")


def test_an_interrupt_while_a_call_begins_gives_up_its_seat(
    registry: FakeRegistry, store: imgpull.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _, gate = halfway(registry)
    cancel = imgpull.Cancellation()
    with imgpull.Puller(store) as puller:
        begin = puller._start

        def interrupted(*args: object) -> None:
            begin(*args)  # type: ignore[arg-type]
            gate.wait_reached()
            raise KeyboardInterrupt

        for use in (puller.pull, puller.submit):
            monkeypatch.setattr(puller, "_start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                use(reference, cancel=cancel)
            until(lambda: not puller._traffic.pulls, "the flight has ended, for nobody is on board")
            assert not puller._calls
            assert not cancel._callbacks
    gate.open()
    assert store.images.list() == []


@pytest.mark.parametrize("timeout_seconds", [1e12, float("inf")])
def test_a_timeout_longer_than_any_wait(registry: FakeRegistry, store: imgpull.Store, timeout_seconds: float) -> None:
    registry.add(build(IMAGES))
    reference = f"{registry.address}/library/fake"
    failures: list[object] = []
    before, threading.excepthook = threading.excepthook, failures.append
    try:
        with imgpull.Puller(store) as puller:
            assert puller.submit(reference, timeout_seconds=timeout_seconds).result(DEADLINE_SECONDS)
            assert puller.pull(reference, timeout_seconds=timeout_seconds)
    finally:
        threading.excepthook = before
    assert failures == []


def test_a_call_whose_timeout_nobody_can_watch_ends_at_once(
    registry: FakeRegistry, store: imgpull.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _, gate = halfway(registry)
    starting = threading.Thread.start

    def no_watch(self: threading.Thread) -> None:
        (no_thread if self.name == "imgpull-timeouts" else starting)(self)

    with imgpull.Puller(store) as puller:
        monkeypatch.setattr(threading.Thread, "start", no_watch)
        future = puller.submit(reference, timeout_seconds=60)
        with pytest.raises(RuntimeError, match="start new thread"):
            future.result(0)
        until(lambda: not puller._traffic.pulls, "nobody is on board")
    gate.open()


def test_a_closed_puller_leaves_nothing_on_the_callers_cancellation(store: imgpull.Store) -> None:
    cancel = imgpull.Cancellation()
    puller = imgpull.Puller(store)
    puller.close()
    for use in (puller.pull, puller.submit):
        with pytest.raises(RuntimeError, match="closed"):
            use("localhost:1/x", cancel=cancel)
    assert not cancel._callbacks
