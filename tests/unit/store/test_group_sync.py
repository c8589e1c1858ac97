"""Who is served by which sync, who is told of an error, and when early syncs begin and end."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.threads import DEADLINE_SECONDS, Worker, start, until
from imgpull.errors import AlreadyExistsError, StoreError
from imgpull.oci import Digest
from imgpull.store import Store
from imgpull.store.group_sync import GroupSync


class Disk:
    """Counts its syncs; each waits, once begun, until the test lets it end or fail."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.fds: set[int] = set()
        self._ends: queue.Queue[BaseException | None] = queue.Queue()
        self._lock = threading.Lock()  # guards at_once

    def data(self, fd: int) -> None:
        raise AssertionError("not asked for")

    def directory(self, path: str | os.PathLike[str]) -> None:
        raise AssertionError("not asked for")

    def filesystem(self, fd: int) -> None:
        with self._lock:
            self.at_once += 1
            assert self.at_once == 1, "two syncs of one file system at once"
            self.begun += 1
        self.fds.add(fd)
        os.fstat(fd)
        try:
            end = self._ends.get(timeout=DEADLINE_SECONDS)
        finally:
            with self._lock:
                self.at_once -= 1
        if end is not None:
            raise end

    def end(self, error: BaseException | None = None) -> None:
        """Let the sync that runs, or the next one, end."""
        self._ends.put(error)

    def until_begun(self, count: int) -> None:
        until(lambda: self.begun == count, f"{count} syncs have begun")


class Clock:
    """The pauses between early syncs: each lasts until the test ends it."""

    def __init__(self) -> None:
        self.paused = 0
        self._ends: queue.Queue[bool] = queue.Queue()

    def pause(self, seconds: float) -> bool:
        assert seconds == 0.25
        self.paused += 1
        return self._ends.get(timeout=DEADLINE_SECONDS)

    def tick(self, *, stop: bool = False) -> None:
        self._ends.put(stop)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def syncs(disk: Disk, tmp_path: Path) -> Iterator[GroupSync]:
    made = GroupSync(tmp_path, disk, early_seconds=None)
    yield made
    made.close()


def _settle(syncs: GroupSync) -> Callable[[], None]:
    writing = syncs.begin()

    def settle() -> None:
        with writing:
            writing.settle()

    return settle


def _wait_for_next(syncs: GroupSync, workers: list[Worker]) -> None:
    """Until all of them wait for the round that has not begun."""

    def waiting() -> bool:
        with syncs._lock:
            shared = syncs._next
        # One of them leads: it waits for the running round. The others wait for it.
        return shared is not None and len(shared.done._cond._waiters) == len(workers) - 1  # type: ignore[attr-defined]

    until(waiting, f"{len(workers)} wait for the next sync")


class TestSharing:
    def test_one_by_one_each_syncs(self, syncs: GroupSync, disk: Disk) -> None:
        for _ in range(3):
            disk.end()
            _settle(syncs)()
        assert disk.begun == 3
        assert len(disk.fds) == 1

    def test_who_asks_while_a_sync_runs_waits_for_the_next(self, syncs: GroupSync, disk: Disk) -> None:
        first = start(_settle(syncs))
        disk.until_begun(1)
        late = start(_settle(syncs))
        _wait_for_next(syncs, [late])
        disk.end()
        first.outcome()
        disk.until_begun(2)
        assert late.is_alive()
        disk.end()
        late.outcome()
        assert disk.begun == 2

    def test_all_who_ask_meanwhile_share_one(self, syncs: GroupSync, disk: Disk) -> None:
        first = start(_settle(syncs))
        disk.until_begun(1)
        late = [start(_settle(syncs)) for _ in range(10)]
        _wait_for_next(syncs, late)
        disk.end()
        disk.end()
        for worker in [first, *late]:
            worker.outcome()
        assert disk.begun == 2

    def test_no_lock_is_held_during_a_sync(self, syncs: GroupSync, disk: Disk) -> None:
        first = start(_settle(syncs))
        disk.until_begun(1)
        with syncs.begin():
            pass
        disk.end()
        first.outcome()

    def test_an_interrupted_leader_leaves_the_others_a_sync(self, syncs: GroupSync, disk: Disk) -> None:
        """Ctrl-C reaches one thread; who shared its sync makes another."""
        first = start(_settle(syncs))
        disk.until_begun(1)
        leader = start(_settle(syncs))
        _wait_for_next(syncs, [leader])
        other = start(_settle(syncs))
        _wait_for_next(syncs, [leader, other])
        disk.end()
        disk.until_begun(2)
        disk.end(KeyboardInterrupt())
        disk.until_begun(3)
        disk.end()
        first.outcome()
        other.outcome()
        with pytest.raises(KeyboardInterrupt):
            leader.outcome()

    def test_a_leader_interrupted_before_its_sync_leaves_no_round_behind(
        self, syncs: GroupSync, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        first = start(_settle(syncs))
        disk.until_begun(1)
        assert syncs._latest is not None
        with monkeypatch.context() as patched:
            patched.setattr(syncs._latest.done, "wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                start(_settle(syncs)).outcome()
        disk.end()
        first.outcome()
        disk.end()
        start(_settle(syncs)).outcome()
        assert disk.begun == 2


class TestErrors:
    def test_it_fails_all_whom_it_served_each_with_an_error_of_his_own(self, syncs: GroupSync, disk: Disk) -> None:
        first = start(_settle(syncs))
        disk.until_begun(1)
        late = [start(_settle(syncs)) for _ in range(2)]
        _wait_for_next(syncs, late)
        disk.end()
        first.outcome()
        disk.end(OSError(errno.EIO, "Input/output error"))
        errors = [worker.done().error for worker in late]
        assert [error.errno for error in errors if isinstance(error, OSError)] == [errno.EIO] * 2
        assert errors[0] is not errors[1]

    def test_it_fails_who_was_writing_but_had_not_asked(self, syncs: GroupSync, disk: Disk) -> None:
        """The kernel tells of lost pages once: a later sync succeeds without them."""
        with syncs.begin() as writing:
            disk.end(OSError(errno.EIO, "Input/output error"))
            syncs.sync()
            disk.end()
            with pytest.raises(OSError, match="Input/output"):
                writing.settle()

    def test_it_does_not_fail_who_began_afterwards(self, syncs: GroupSync, disk: Disk) -> None:
        disk.end(OSError(errno.EIO, "Input/output error"))
        with pytest.raises(OSError, match="Input/output"):
            _settle(syncs)()
        disk.end()
        _settle(syncs)()


class TestEarlySyncs:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def early(self, disk: Disk, clock: Clock, tmp_path: Path) -> Iterator[GroupSync]:
        made = GroupSync(tmp_path, disk, early_seconds=0.25, pause=clock.pause)
        yield made
        clock.tick(stop=True)
        made.close()

    def test_one_after_each_pause_while_somebody_writes(self, early: GroupSync, disk: Disk, clock: Clock) -> None:
        assert _threads() == []
        with early.begin(), early.begin():
            assert len(_threads()) == 1
            for count in (1, 2):
                until(lambda: clock.paused == disk.begun + 1, "it pauses")
                clock.tick()
                disk.until_begun(count)
                disk.end()

    def test_none_when_all_have_ended_and_the_thread_ends(self, early: GroupSync, disk: Disk, clock: Clock) -> None:
        with early.begin():
            pass
        clock.tick()
        until(lambda: not _threads(), "the thread ends")
        assert disk.begun == 0
        with early.begin():
            assert len(_threads()) == 1
            until(lambda: clock.paused == 2, "it pauses again")

    def test_one_that_runs_does_not_serve_who_asks(self, early: GroupSync, disk: Disk, clock: Clock) -> None:
        settling = _settle(early)
        clock.tick()
        disk.until_begun(1)
        worker = start(settling)
        _wait_for_next(early, [worker])
        disk.end()
        disk.until_begun(2)
        assert worker.is_alive()
        disk.end()
        worker.outcome()

    def test_an_error_is_kept_for_who_was_writing(self, early: GroupSync, disk: Disk, clock: Clock) -> None:
        with early.begin() as writing:
            clock.tick()
            disk.end(OSError(errno.EIO, "Input/output error"))
            until(lambda: clock.paused == 2, "the early sync has failed, and the thread goes on")
            disk.end()
            with pytest.raises(OSError, match="Input/output"):
                writing.settle()

    def test_none_without_durability(self, syncs: GroupSync) -> None:
        with syncs.begin():
            assert _threads() == []

    def test_a_process_that_may_have_no_more_threads(
        self, early: GroupSync, disk: Disk, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            disk.end()
            _settle(early)()
        with early.begin():
            assert len(_threads()) == 1


class TestSnapshots:
    def test_what_an_early_sync_lost_is_not_committed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: object, fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        chain = Digest.of_bytes(b"")
        with Store(tmp_path / "store") as store:
            store.snapshots.prepare("lost")
            with monkeypatch.context() as patched:
                patched.setattr("imgpull.store.durability.FullSync.filesystem", fail)
                store.snapshots._syncs.sync()
            with pytest.raises(StoreError, match="Input/output"):
                store.snapshots.commit(chain, "lost")
            store.snapshots.remove("lost")
            store.snapshots.prepare("whole")
            store.snapshots.commit(chain, "whole")

    def test_an_active_snapshot_is_written_until_it_is_committed_or_removed(self, tmp_path: Path) -> None:
        with Store(tmp_path / "store", durability="none") as store:
            writings = store.snapshots._syncs._writings
            for end in (store.snapshots.remove, lambda key: store.snapshots.commit(Digest.of_bytes(b""), key)):
                store.snapshots.prepare("key")
                assert len(writings) == 1
                with pytest.raises(AlreadyExistsError):
                    store.snapshots.prepare("key")
                assert len(writings) == 1
                end("key")
                assert not writings


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "imgpull-sync"]


def test_closing_ends_a_pause(disk: Disk, tmp_path: Path) -> None:
    syncs = GroupSync(tmp_path, disk, early_seconds=3600)
    with syncs.begin():
        assert len(_threads()) == 1
    syncs.close()
    syncs.close()
    assert _threads() == []
