"""What KeyedMutex does beyond the contract: hand-over, wake-ups, dead threads, fork, and the speed of its design."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import weakref

import pytest

from fakes.threads import Worker, start, until
from imgpull.errors import LockTimeoutError, PullCancelledError
from imgpull.locking import Cancellation, KeyedMutex, thread_end

KEY = "blob://sha256:1"


@pytest.fixture
def mutex() -> KeyedMutex:
    return KeyedMutex()


def enter(mutex: KeyedMutex, log: list[str], name: str, cancel: Cancellation | None = None) -> None:
    with mutex.hold(KEY, cancel=cancel):
        log.append(name)


def two_waiters(mutex: KeyedMutex, log: list[str], cancel: Cancellation) -> tuple[Worker, Worker]:
    """Two threads that wait for the key, in this order; ``cancel`` is the first one's."""
    first = start(lambda: enter(mutex, log, "cancelled", cancel))
    until(lambda: mutex.waiters(KEY) == 1, "the first waits")
    second = start(lambda: enter(mutex, log, "next"))
    until(lambda: mutex.waiters(KEY) == 2, "the second waits")
    return first, second


def test_kmutex_basic(mutex: KeyedMutex) -> None:
    """containerd's TestBasic: a cancelled waiter's reference is dropped; the key stays with its holder."""
    cancel = Cancellation()
    with mutex.hold("c1"), mutex.hold("c2"):
        assert len(mutex) == 2
        waiter = start(lambda: mutex.hold("c1", cancel=cancel).__enter__())
        until(lambda: mutex.waiters("c1") == 1, "one waits")
        cancel.cancel()
        with pytest.raises(PullCancelledError):
            waiter.outcome()
        assert (len(mutex), mutex.waiters("c1")) == (2, 0)
    assert len(mutex) == 0


class TestHandOver:
    def test_a_release_makes_the_first_waiter_the_owner_before_it_wakes(self, mutex: KeyedMutex) -> None:
        log: list[str] = []
        hold = mutex.hold(KEY)
        hold.__enter__()
        waiter = start(lambda: enter(mutex, log, "waiter"))
        until(lambda: mutex.waiters(KEY) == 1, "one waits")
        with mutex._lock:  # the waiter can't run before this is let go; a newcomer in this place must not get the key
            hold.__exit__(None, None, None)
            assert mutex.waiters(KEY) == 0
            with pytest.raises(LockTimeoutError):
                mutex.hold(KEY, timeout_seconds=0).__enter__()
        waiter.outcome()
        assert log == ["waiter"]

    def test_a_newcomer_does_not_overtake(self, mutex: KeyedMutex) -> None:
        log: list[str] = []
        with mutex.hold(KEY):
            first = start(lambda: enter(mutex, log, "first"))
            until(lambda: mutex.waiters(KEY) == 1, "one waits")
        enter(mutex, log, "newcomer")
        first.outcome()
        assert log == ["first", "newcomer"]

    def test_one_wake_up_per_release(self, mutex: KeyedMutex, monkeypatch: pytest.MonkeyPatch) -> None:
        wakeups = 0
        real = threading.Condition.wait

        def counted(self: threading.Condition, timeout: float | None = None) -> bool:
            nonlocal wakeups
            result = real(self, timeout)
            wakeups += self._lock is mutex._lock  # which is held here; starting a thread waits on another
            return result

        monkeypatch.setattr(threading.Condition, "wait", counted)
        log: list[str] = []
        with mutex.hold(KEY):
            workers = []
            for number in range(20):
                workers.append(start(lambda n=number: enter(mutex, log, str(n))))
                until(lambda n=number: mutex.waiters(KEY) == n + 1, f"{number} waits")
        for worker in workers:
            worker.outcome()
        assert wakeups == 20

    def test_granted_and_cancelled_passes_the_key_on(self, mutex: KeyedMutex) -> None:
        cancel = Cancellation()
        log: list[str] = []
        hold = mutex.hold(KEY)
        hold.__enter__()
        cancelled, next_one = two_waiters(mutex, log, cancel)
        with mutex._lock:  # both happen before the waiter can look
            hold.__exit__(None, None, None)
            cancel.cancel()
        with pytest.raises(PullCancelledError):
            cancelled.outcome()
        next_one.outcome()
        assert log == ["next"]
        assert len(mutex) == 0

    def test_half_a_grant_is_passed_on_whole(self, mutex: KeyedMutex) -> None:
        """A release is interrupted once the waiter owns the key, and the waiter leaves before it is repaired."""
        cancel = Cancellation()
        log: list[str] = []
        hold = mutex.hold(KEY)
        hold.__enter__()
        cancelled, next_one = two_waiters(mutex, log, cancel)
        with mutex._lock:
            first, second = mutex._queues[KEY]
            mutex._owners[KEY] = first
            mutex._withdraw(first)
            assert mutex._owners[KEY] is second
            cancel.cancel()
        with pytest.raises(PullCancelledError):
            cancelled.outcome()
        next_one.outcome()
        assert log == ["next"]
        assert (mutex._owners, mutex._queues) == ({}, {})

    def test_a_try_does_not_queue(self, mutex: KeyedMutex) -> None:
        second = mutex.hold(KEY, timeout_seconds=0)
        with mutex.hold(KEY), pytest.raises(LockTimeoutError):
            start(second.__enter__).outcome()
        assert second.condition is None

    def test_granted_too_late_passes_the_key_on(self, mutex: KeyedMutex, monkeypatch: pytest.MonkeyPatch) -> None:
        """The grant comes between the end of the wait and the waiter's leaving the queue."""
        log: list[str] = []
        hold = mutex.hold(KEY)
        hold.__enter__()
        real = type(hold)._timed_out

        def release_then_time_out(self: object) -> LockTimeoutError:
            if self is not hold:
                hold.__exit__(None, None, None)
            return real(self)  # type: ignore[arg-type]

        late = start(lambda: mutex.hold(KEY, timeout_seconds=0.2).__enter__())
        until(lambda: mutex.waiters(KEY) == 1, "the one with a timeout waits")
        patient = start(lambda: enter(mutex, log, "patient"))
        until(lambda: mutex.waiters(KEY) == 2, "the patient one waits")
        monkeypatch.setattr(type(hold), "_timed_out", release_then_time_out)
        with pytest.raises(LockTimeoutError):
            late.outcome()
        patient.outcome()
        assert log == ["patient"]
        assert len(mutex) == 0

    def test_cancel_from_inside_the_lock_by_the_same_thread(self, mutex: KeyedMutex) -> None:
        """What a signal handler does that interrupts the thread in the tables: it must not block on itself."""
        cancel = Cancellation()
        with mutex.hold(KEY):
            waiter = start(lambda: mutex.hold(KEY, cancel=cancel).__enter__())
            until(lambda: mutex.waiters(KEY) == 1, "one waits")
            with mutex._lock:
                cancel.cancel()
            with pytest.raises(PullCancelledError):
                waiter.outcome()

    def test_a_finished_wait_leaves_no_callback_on_the_cancellation(self, mutex: KeyedMutex) -> None:
        cancel = Cancellation()
        log: list[str] = []
        with mutex.hold(KEY):
            waiter = start(lambda: enter(mutex, log, "waiter", cancel))
            until(lambda: mutex.waiters(KEY) == 1, "one waits")
        waiter.outcome()
        assert len(cancel._callbacks) == 0


class TestUndisputedKey:
    def test_makes_no_condition_and_no_queue(self, mutex: KeyedMutex) -> None:
        with mutex.hold(KEY) as held:
            assert held.condition is None  # type: ignore[attr-defined]
            assert mutex._queues == {}

    def test_holds_and_mutexes_are_small(self, mutex: KeyedMutex) -> None:
        assert not hasattr(mutex, "__dict__")
        assert not hasattr(mutex.hold(KEY), "__dict__")

    def test_an_abandoned_mutex_is_collected(self) -> None:
        mutex = KeyedMutex()
        with mutex.hold(KEY):
            pass
        gone = weakref.ref(mutex)
        del mutex
        gc.collect()
        assert gone() is None


def test_the_timeout_error_says_what_who_and_what_to_do(mutex: KeyedMutex) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with mutex.hold(KEY):
            inside.set()
            leave.wait()

    holder = start(hold, "imgpull-fetch-3")
    inside.wait()
    with pytest.raises(LockTimeoutError) as caught:
        mutex.hold(KEY, timeout_seconds=0).__enter__()
    leave.set()
    holder.outcome()
    assert str(caught.value) == (
        "blob://sha256:1 was not free within 0 s, thread imgpull-fetch-3 holds it; allow more time or try again"
    )
    assert caught.value.key == KEY


def test_repr_tells_numbers_and_names_only(mutex: KeyedMutex) -> None:
    with mutex.hold(KEY) as held:
        assert repr(mutex) == "<KeyedMutex 1 live keys>"
        assert repr(held) == f"<hold on {KEY!r} by {threading.current_thread().name}>"
    assert repr(mutex.hold(KEY)) == f"<hold on {KEY!r} by None>"


class TestDeadThread:
    def test_taking_over_is_logged_by_the_heir(self, mutex: KeyedMutex, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "imgpull.locking")
        may_die = Cancellation()

        def hold_and_die() -> None:
            mutex.hold(KEY).__enter__()
            may_die.wait()

        holder = start(hold_and_die, "careless")
        until(lambda: len(mutex) == 1, "the key is held")
        log: list[str] = []
        heir = start(lambda: enter(mutex, log, "heir"))
        until(lambda: mutex.waiters(KEY) == 1, "one waits")
        may_die.cancel()
        holder.done()
        heir.outcome()
        assert log == ["heir"]
        assert [record.getMessage() for record in caplog.records] == [
            f"{KEY}: thread careless ended without releasing it, took over"
        ]
        assert caplog.records[0].threadName == "worker"

    def test_all_its_keys_in_all_mutexes_pass_on(self, mutex: KeyedMutex) -> None:
        other = KeyedMutex()

        def hold_and_die() -> None:
            for key in ("a", "b"):
                mutex.hold(key).__enter__()
                other.hold(key).__enter__()

        start(hold_and_die).done()
        until(lambda: len(mutex) + len(other) == 0, "four keys are given up")

    def test_the_keys_of_living_threads_stay(self, mutex: KeyedMutex) -> None:
        with mutex.hold("mine"):
            start(lambda: mutex.hold("theirs").__enter__()).done()
            until(lambda: len(mutex) == 1, "the dead thread's key is given up")
            with pytest.raises(LockTimeoutError):
                start(lambda: mutex.hold("mine", timeout_seconds=0).__enter__()).outcome()

    def test_leaves_no_dummy_thread(self, mutex: KeyedMutex) -> None:
        """Whatever asks for the current thread while it dies invents one that is never removed."""
        start(lambda: mutex.hold(KEY).__enter__()).done()
        until(lambda: len(mutex) == 0, "the key is given up")
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("Dummy")] == []


def in_forked_child(check: object) -> None:
    """Fork; the child calls ``check`` and tells by its exit status whether it raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()  # type: ignore[operator]
            status = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 warns: the point is to fork with threads
class TestFork:
    def test_the_child_starts_with_an_empty_table(self, mutex: KeyedMutex) -> None:
        def check() -> None:
            assert len(mutex) == 0
            with mutex.hold(KEY, timeout_seconds=0):
                assert len(mutex) == 1
            assert len(mutex) == 0

        with mutex.hold(KEY):
            in_forked_child(check)
            assert len(mutex) == 1
        assert len(mutex) == 0

    def test_leaving_the_parent_s_hold_in_the_child_does_nothing(self, mutex: KeyedMutex) -> None:
        inherited = mutex.hold(KEY)

        def check() -> None:
            with mutex.hold(KEY, timeout_seconds=0):
                inherited.__exit__(None, None, None)
                assert len(mutex) == 1

        with inherited:
            in_forked_child(check)
            assert len(mutex) == 1

    def test_forked_while_another_thread_is_inside_the_tables(self, mutex: KeyedMutex) -> None:
        inside, leave = threading.Event(), threading.Event()

        def occupy() -> None:
            with mutex.hold(KEY), mutex._lock:
                inside.set()
                leave.wait()

        other = start(occupy)
        inside.wait()

        def check() -> None:
            with mutex.hold(KEY, timeout_seconds=0):
                pass

        in_forked_child(check)
        leave.set()
        other.outcome()

    def test_forked_while_another_thread_makes_a_mutex(self) -> None:
        def check() -> None:
            with KeyedMutex().hold(KEY, timeout_seconds=0):
                pass

        inside, leave = threading.Event(), threading.Event()

        def occupy() -> None:
            with thread_end._heirs_lock:
                inside.set()
                leave.wait()

        other = start(occupy)
        inside.wait()
        in_forked_child(check)
        leave.set()
        other.outcome()

    def test_a_thread_of_the_child_that_dies_passes_its_keys_on(self, mutex: KeyedMutex) -> None:
        def check() -> None:
            start(lambda: mutex.hold(KEY).__enter__()).done()
            until(lambda: len(mutex) == 0, "the key is given up in the child")

        in_forked_child(check)

    def test_the_forking_thread_passes_its_keys_on_when_it_dies_in_the_child(self, mutex: KeyedMutex) -> None:
        """The thread that forked goes on in the child under the child's process id."""
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_hold_in_forking_thread, args=(mutex,))

        def use_then_fork() -> None:
            with mutex.hold(KEY):
                pass
            process.start()

        start(use_then_fork).outcome()
        process.join(20)
        assert process.exitcode == 0


def _hold_in_forking_thread(mutex: KeyedMutex) -> None:
    assert thread_end.this_thread._end._pid == os.getpid()
    mutex.hold(KEY).__enter__()
    del thread_end.this_thread._end  # what the end of the thread does
    assert len(mutex) == 0


@pytest.mark.parametrize("daemon", [True, False])
def test_the_interpreter_exits_quietly_while_threads_hold_keys(daemon: bool) -> None:
    """At exit daemon threads are frozen wherever they are, perhaps inside the tables: nothing may wait for them."""
    program = f"""
import threading
from imgpull.locking import KeyedMutex
mutex = KeyedMutex()
inside = threading.Event()
def occupy():
    mutex.hold("a").__enter__()
    if {daemon}:
        mutex._lock.acquire()
        inside.set()
        threading.Event().wait()
    inside.set()
threading.Thread(target=occupy, daemon={daemon}).start()
inside.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
