"""What ProcessKeys does beyond the contract: other processes, watchers, fork.

Two of them on one file are two owners for the kernel, as two processes are: ``theirs`` plays the other process here.
tests/concurrency/test_processes.py has real ones.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from fakes import scripts
from fakes.threads import Worker, start, until
from imgpull.errors import LockTimeoutError, PullCancelledError, StoreError
from imgpull.locking import Cancellation, ProcessKeys
from imgpull.locking.byte_locks import ByteLocks

KEY = "blob://sha256:1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.lock"


@pytest.fixture
def ours(path: Path) -> Iterator[ProcessKeys]:
    keys = ProcessKeys(path)
    yield keys
    keys.close()


@pytest.fixture
def theirs(path: Path) -> Iterator[ProcessKeys]:
    keys = ProcessKeys(path)
    yield keys
    keys.close()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("imgpull-watch")]


def no_watchers() -> None:
    until(lambda: not watchers(), "every watcher has ended")


def enter(keys: ProcessKeys, timeout_seconds: float | None = None, cancel: Cancellation | None = None) -> bool:
    with keys.hold(KEY, timeout_seconds, cancel) as held:
        return held.waited


def waiting(keys: ProcessKeys, do: Callable[[], object], count: int = 1) -> Worker:
    """A thread that runs ``do``, and has come to wait for the key."""
    worker = start(do)
    until(lambda: keys.waiters(KEY) == count, f"{count} wait")
    return worker


def free(keys: ProcessKeys) -> bool:
    try:
        with keys.hold(KEY, timeout_seconds=0):
            return True
    except LockTimeoutError:
        return False


def descriptors(path: Path) -> int:
    """How many descriptors of this process are open on ``path``."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own, closed since
            count += link.readlink() == path
    return count


class TestAmongProcesses:
    def test_a_key_has_one_holder_and_the_next_is_told_that_it_waited(
        self, ours: ProcessKeys, theirs: ProcessKeys
    ) -> None:
        with theirs.hold(KEY):
            worker = waiting(ours, lambda: enter(ours))
            assert [thread.name for thread in watchers()] == [f"imgpull-watch {KEY}"]
            assert len(ours) == len(theirs) == 1
        assert worker.outcome() is True
        no_watchers()
        assert len(ours) == len(theirs) == ours.waiters(KEY) == 0
        assert free(theirs)

    def test_another_key_is_free_and_needs_no_watcher(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        with theirs.hold(KEY), ours.hold("blob://sha256:2") as held:
            assert held.waited is False
            assert watchers() == []

    def test_the_keys_of_one_process_are_given_up_one_by_one(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        with ours.hold(KEY):
            with ours.hold("another"):
                pass
            assert not free(theirs)
        assert free(theirs)

    def test_every_thread_of_a_process_waits_behind_one_watcher(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        with theirs.hold(KEY):
            workers = [waiting(ours, lambda: enter(ours), count) for count in range(1, 5)]
            assert len(watchers()) == 1
        assert [worker.outcome() for worker in workers] == [True] * 4

    @pytest.mark.parametrize("timeout_seconds", [-1, 0, 0.01])
    def test_not_free_in_time(self, ours: ProcessKeys, theirs: ProcessKeys, timeout_seconds: float) -> None:
        with theirs.hold(KEY):
            with pytest.raises(LockTimeoutError, match="another process holds it") as caught:
                enter(ours, timeout_seconds)
            assert caught.value.key == KEY
            assert len(ours) == ours.waiters(KEY) == 0
            assert len(watchers()) == (1 if timeout_seconds > 0 else 0)
        no_watchers()
        assert free(theirs)

    def test_the_time_spent_waiting_for_threads_counts(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        with theirs.hold(KEY):
            first = waiting(ours, lambda: enter(ours))
            with pytest.raises(LockTimeoutError, match="thread worker holds it"):
                enter(ours, 0.01)
        assert first.outcome() is True

    @pytest.mark.parametrize("timeout_seconds", [None, 1000, float("inf")])
    def test_cancel_while_waiting(self, ours: ProcessKeys, theirs: ProcessKeys, timeout_seconds: float | None) -> None:
        cancel = Cancellation()
        with theirs.hold(KEY):
            worker = waiting(ours, lambda: enter(ours, timeout_seconds, cancel))
            cancel.cancel()
            with pytest.raises(PullCancelledError):
                worker.outcome()
            assert len(ours) == ours.waiters(KEY) == 0
        no_watchers()
        assert free(theirs)
        assert free(ours)

    def test_releasing_twice_does_not_free_the_next_holder_s_byte(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        first = ours.hold(KEY)
        with first:
            pass
        with ours.hold(KEY):
            with pytest.raises(RuntimeError, match="release"):
                first.__exit__(None, None, None)
            assert not free(theirs)

    def test_the_byte_of_a_dead_thread_is_free(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        start(lambda: ours.hold(KEY).__enter__()).done()
        until(lambda: free(theirs), "the key of the dead thread is free elsewhere")

    def test_the_byte_of_a_dead_thread_stays_with_its_heir(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        """Whichever learns first of the death, the mutex or the file: the one who has the key now keeps the byte."""
        dead = ours.hold(KEY)
        holder = start(dead.__enter__)
        holder.done()
        until(lambda: len(ours) == 0, "the mutex knows")
        with ours.hold(KEY):
            ours.thread_ended(holder)
            assert not free(theirs)


class TestWatchers:
    def test_one_that_nobody_wants_any_more_gives_the_byte_up_when_it_comes(
        self, ours: ProcessKeys, theirs: ProcessKeys
    ) -> None:
        with theirs.hold(KEY), pytest.raises(LockTimeoutError):
            enter(ours, 0.01)
        no_watchers()
        assert free(theirs)

    def test_the_next_who_wants_the_key_takes_it_over(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        with theirs.hold(KEY):
            with pytest.raises(LockTimeoutError):
                enter(ours, 0.01)
            (watcher,) = watchers()
            worker = waiting(ours, lambda: enter(ours))
            assert watchers() == [watcher]
        assert worker.outcome() is True
        no_watchers()
        assert free(theirs)

    def test_until_it_has_ended_nobody_else_of_its_process_has_the_byte(
        self, ours: ProcessKeys, theirs: ProcessKeys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else what one thread gives up is what the watcher was granted, and believes it has."""
        granted, come = threading.Event(), threading.Event()
        lock = ByteLocks.lock

        def lock_and_linger(locks: ByteLocks, offset: int) -> None:
            lock(locks, offset)
            granted.set()
            come.wait()

        monkeypatch.setattr(ByteLocks, "lock", lock_and_linger)
        with theirs.hold(KEY), pytest.raises(LockTimeoutError):
            enter(ours, 0.01)
        granted.wait()
        assert not free(ours)
        worker = waiting(ours, lambda: ours.hold(KEY).__enter__() and free(theirs))
        come.set()
        assert worker.outcome() is False

    def test_a_cancelled_thread_leaves_it_to_the_next_in_the_queue(
        self, ours: ProcessKeys, theirs: ProcessKeys
    ) -> None:
        cancel = Cancellation()
        with theirs.hold(KEY):
            first = waiting(ours, lambda: enter(ours, cancel=cancel))
            second = waiting(ours, lambda: enter(ours), 2)
            cancel.cancel()
            with pytest.raises(PullCancelledError):
                first.outcome()
            until(lambda: ours.waiters(KEY) == 1, "the second waits for the other process")
            assert len(watchers()) == 1
        assert second.outcome() is True

    def test_a_key_that_comes_together_with_a_cancel_is_given_up(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        class AtTheLastMoment(Cancellation):
            """Fires between the bell and the look at what it rang for."""

            def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
                return self.cancel

        with theirs.hold(KEY):
            worker = waiting(ours, lambda: enter(ours, cancel=AtTheLastMoment()))
        with pytest.raises(PullCancelledError):
            worker.outcome()
        assert free(theirs)

    def test_no_thread_to_be_had(self, ours: ProcessKeys, theirs: ProcessKeys, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with theirs.hold(KEY):
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", fails)
                with pytest.raises(RuntimeError, match="can't start"):
                    enter(ours)
            assert len(ours) == ours.waiters(KEY) == 0
            worker = waiting(ours, lambda: enter(ours))
        assert worker.outcome() is True

    def test_what_the_kernel_refuses_goes_to_the_one_who_waits(
        self, ours: ProcessKeys, theirs: ProcessKeys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(locks: ByteLocks, offset: int) -> None:
            raise StoreError("cannot lock it: no locks available")

        monkeypatch.setattr(ByteLocks, "lock", fails)
        with theirs.hold(KEY):
            with pytest.raises(StoreError, match="no locks available"):
                enter(ours)
            assert not free(ours)
        assert free(ours)


class TestItsLife:
    def test_the_file_is_made_private_by_the_first_hold_and_stays_empty(self, ours: ProcessKeys, path: Path) -> None:
        assert not path.exists()
        with ours.hold(KEY):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size == 0

    def test_a_symlink_is_not_followed(self, ours: ProcessKeys, path: Path) -> None:
        path.symlink_to(path.with_name("victim"))
        with pytest.raises(StoreError, match=r"cannot lock .*keys\.lock"):
            enter(ours)
        assert len(ours) == 0
        assert not path.with_name("victim").exists()

    def test_closing_gives_every_key_up(self, ours: ProcessKeys, theirs: ProcessKeys) -> None:
        with ExitStack() as stack:
            stack.enter_context(ours.hold(KEY))
            ours.close()
            ours.close()
            assert free(theirs)
        with pytest.raises(StoreError, match="is closed"):
            enter(ours)
        assert len(ours) == 0

    def test_closed_while_a_watcher_waits(self, ours: ProcessKeys, theirs: ProcessKeys, path: Path) -> None:
        """The descriptor stays open for the watcher, and no longer."""
        with theirs.hold(KEY), ours.hold("another"):
            worker = waiting(ours, lambda: enter(ours))
            ours.close()
            with theirs.hold("another", timeout_seconds=0):
                pass
            assert descriptors(path) == 2
        with pytest.raises(StoreError, match="is closed"):
            worker.outcome()
        no_watchers()
        assert descriptors(path) == 1
        assert free(theirs)

    def test_repr(self, ours: ProcessKeys, path: Path) -> None:
        with ours.hold(KEY) as held:
            assert repr(ours) == f"<ProcessKeys {path}, 1 live keys>"
            assert repr(held) == f"<hold on {KEY!r} among processes by {threading.current_thread().name}>"

    def test_the_bytes_are_the_same_in_every_version(self, ours: ProcessKeys) -> None:
        """Two versions of this library may share a store."""
        assert ours.hold(KEY).offset == 0x5094DED34AFA04EB >> 1
        assert all(0 <= ours.hold(str(number)).offset < 2**63 for number in range(1000))


def test_where_such_locks_are_unknown_keys_are_those_of_the_process(
    ours: ProcessKeys, theirs: ProcessKeys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fcntl.F_OFD_SETLK", -1)  # EINVAL, as a kernel says that does not know it
    with theirs.hold(KEY), ours.hold(KEY), pytest.raises(LockTimeoutError):
        start(lambda: enter(ours, 0)).outcome()
    message = f"{ours._file.path} can't be locked (Invalid argument): other processes may do the same work"
    assert [record.getMessage() for record in caplog.records] == [message] * 2


# A program that holds keys.lock's KEY, forks, and lives on in parent or child; the test asks whether the key is free.
FORK = """
    import os, signal
    from imgpull.locking import ProcessKeys
    path, key, who = sys.argv[1:]
    keys = ProcessKeys(path)
    hold = keys.hold(key)
    hold.__enter__()
    waits, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tells)
        if who == "child leaves":
            hold.__exit__(None, None, None)  # the parent's: nothing
            keys.close()
            os._exit(0)
        os.read(waits, 1)
        os._exit(0)
    if who == "child leaves":
        os.waitpid(child, 0)
    if who == "parent killed":
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if who == "parent leaves":
        hold.__exit__(None, None, None)
    print(child, flush=True)
    input()
"""


@pytest.mark.parametrize(
    ("who", "is_free"), [("parent killed", True), ("parent leaves", True), ("child leaves", False), ("nobody", False)]
)
def test_a_forked_child_neither_keeps_a_key_nor_gives_it_up(
    ours: ProcessKeys, path: Path, who: str, is_free: bool
) -> None:
    process = scripts.begin(FORK, path, KEY, who, options=("-W", "ignore"))
    assert process.stdout is not None
    with process:
        int(process.stdout.readline())
        if who == "parent killed":
            until(lambda: free(ours), "the killed parent's key is free while its child lives")
        else:
            assert free(ours) is is_free
        process.kill()


def test_a_child_is_another_process_to_its_parent(path: Path) -> None:
    source = """
        import os, threading
        from imgpull import LockTimeoutError
        from imgpull.locking import ProcessKeys
        keys = ProcessKeys(sys.argv[1])
        with keys.hold("a"):
            child = os.fork()
            if child == 0:
                assert len(keys) == 0
                with keys.hold("b"):
                    pass
                try:
                    keys.hold("a", timeout_seconds=0).__enter__()
                except LockTimeoutError as error:
                    print(error, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """
    assert "another process holds it" in scripts.run(source, path, options=("-W", "ignore"))


def test_forked_while_a_watcher_waits(theirs: ProcessKeys, path: Path) -> None:
    """The watcher stays in the parent: the child sets one of its own, and each gets the key in turn."""
    source = """
        import os, threading
        from imgpull.locking import ProcessKeys
        keys = ProcessKeys(sys.argv[1])
        def enter():
            with keys.hold("a") as held:
                assert held.waited
                print("entered", flush=True)
        thread = threading.Thread(target=enter)
        thread.start()
        while not keys.waiters("a"):
            pass
        child = os.fork()
        if child == 0:
            assert keys.waiters("a") == 0
            thread = threading.Thread(target=enter)
            thread.start()
            while not keys.waiters("a"):
                pass
            print("ready", flush=True)
            thread.join()
            os._exit(0)
        thread.join()
        assert os.waitpid(child, 0)[1] == 0
    """
    with theirs.hold("a"):
        process = scripts.begin(source, path, options=("-W", "ignore"))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert scripts.finish(process) == "entered\n" * 2


def test_the_interpreter_exits_quietly_while_a_watcher_waits(theirs: ProcessKeys, path: Path) -> None:
    source = """
        import threading
        from imgpull.locking import ProcessKeys
        keys = ProcessKeys(sys.argv[1])
        threading.Thread(target=lambda: keys.hold("a").__enter__(), daemon=True).start()
        while not keys.waiters("a"):
            pass
        print("done")
    """
    with theirs.hold("a"):
        process = scripts.begin(source, path)
        assert process.communicate(timeout=scripts.DEADLINE_SECONDS) == ("done\n", "")
