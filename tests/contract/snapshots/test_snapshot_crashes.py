"""The contract of a snapshotter: what survives a death, what goes, and what is said of damage."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.filesystems import mounts_below
from fakes.snapshots import Kind, Opener, chain, commit, directory_of, seen
from fakes.trees import open_descriptors
from imgpull.errors import SnapshotInUseError, SnapshotNotFoundError, StoreCorruptError, StoreError
from imgpull.store.database import Database
from imgpull.store.snapshots import Snapshots


def test_close_twice(snapshots: Snapshots) -> None:
    before = open_descriptors()
    snapshots.prepare("key")
    snapshots.close()
    snapshots.close()
    assert open_descriptors() == before


def test_what_was_committed_is_there_without_its_row(snapshots: Snapshots, opened: Opener, database: Database) -> None:
    commit(snapshots, "1", {"f": b"1"})
    snapshots.prepare("key", chain("1"), labels={"a": "b"})
    info = snapshots.commit(chain("2"), "key", diff_id=chain("diff"))
    database.write(lambda connection: connection.execute("DELETE FROM snapshots"))
    other = opened()
    assert chain("2") in other
    assert seen(other, chain("2")) == {"f": b"1"}
    with pytest.raises(SnapshotInUseError):
        other.remove(chain("1"))
    assert other.stat(chain("2")) == info
    assert {found.name for found in other.walk()} == {chain("1"), chain("2")}
    assert len(database.query("SELECT * FROM snapshots")) == 2
    other.close()


def test_a_row_without_its_directory_is_no_snapshot(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {})
    (directory_of(place, chain("1"))).rename(place / "lost")
    assert chain("1") not in snapshots
    assert list(snapshots.walk()) == []
    with pytest.raises(SnapshotNotFoundError):
        snapshots.stat(chain("1"))
    commit(snapshots, "1", {"again": b"1"})
    assert seen(snapshots, chain("1")) == {"again": b"1"}


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"version": 2}', b"[" * 100_000],
)
def test_a_damaged_journal_is_named(snapshots: Snapshots, opened: Opener, place: Path, damage: bytes) -> None:
    commit(snapshots, "1", {})
    document = directory_of(place, chain("1")) / "journal.json"
    document.write_bytes(damage)
    other = opened()
    with pytest.raises(StoreCorruptError, match="pull into a new store") as caught:
        other.view(chain("1"))
    assert str(document) in str(caught.value)
    other.close()


def test_a_broken_chain_is_named(snapshots: Snapshots, opened: Opener, place: Path) -> None:
    commit(snapshots, "1", {})
    commit(snapshots, "2", {}, chain("1"))
    lower = directory_of(place, chain("1"))
    lower.rename(place / "lost")
    with pytest.raises(StoreCorruptError, match="is missing"):
        snapshots.chain(chain("2"))
    (place / "lost").rename(lower)
    document = json.loads((lower / "journal.json").read_text())
    (lower / "journal.json").write_text(json.dumps({**document, "parent": chain("2")}))
    other = opened()
    with pytest.raises(StoreCorruptError, match="own ancestor"):
        other.chain(chain("2"))
    other.close()


def test_what_a_crash_left_half_removed_goes_at_the_next_open(
    snapshots: Snapshots, opened: Opener, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(snapshots, "1", {"f": b"1"})

    def crash(path: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("imgpull.store.snapshots.committed.remove_tree", crash)
        with pytest.raises(KeyboardInterrupt):
            snapshots.remove(chain("1"))
    assert chain("1") not in snapshots
    assert len(os.listdir(place / "snapshots/removed")) == 1
    opened().close()
    assert os.listdir(place / "snapshots/removed") == []


CRASH = """
import os, signal, sys
from pathlib import Path
from imgpull.store.database import Database
from imgpull.store.snapshots import Snapshots
root, name = Path(sys.argv[1]), sys.argv[2]
database = Database(root / "metadata.db", root / "metadata.lock", durability="none")
snapshots = Snapshots(root / "snapshots", database, durable=False, read_only=False)
(snapshots.prepare("scratch", target="sha256:" + "0" * 64).path / "f").write_bytes(b"0")
(snapshots.prepare("own work").path / "f").write_bytes(b"0")
view = snapshots.view(name)
view.path
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def killed_once(snapshots: Snapshots, place: Path) -> Iterator[Callable[[], None]]:
    """A process that shows the path of a view of ``1``, has scratch and work of its own; and what kills it."""
    commit(snapshots, "1", {"f": b"1", "gone": b"1"})
    commit(snapshots, "2", {}, chain("1"), gone=("gone",))
    command = [sys.executable, "-c", CRASH, str(place), chain("2")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def kill() -> None:
            process.kill()
            process.wait()

        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield kill
        finally:
            kill()


def test_a_killed_process_leaves_its_work_and_no_scratch(
    opened: Opener, kind: Kind, place: Path, killed_once: Callable[[], None]
) -> None:
    living = opened()
    assert {info.name for info in living.walk()} == {chain("1"), chain("2"), "scratch", "own work"}
    assert len(os.listdir(place / "snapshots/views")) == 1
    assert len(mounts_below(place)) == 1 or not kind.mounts
    with pytest.raises(SnapshotInUseError):
        living.remove(chain("2"))
    living.close()
    killed_once()
    after = opened()
    assert {info.name for info in after.walk()} == {chain("1"), chain("2"), "own work"}
    assert os.listdir(place / "snapshots/views") == []
    assert mounts_below(place) == []
    after.commit(chain("3"), "own work", parent=chain("2"))
    assert seen(after, chain("3")) == {"f": b"0"}
    after.close()


def test_a_dead_view_that_this_process_may_not_unmount_stays_and_stops_nobody(
    opened: Opener,
    place: Path,
    killed_once: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed_once()
    if not mounts_below(place):
        pytest.skip("nothing was mounted")
    with monkeypatch.context() as patch:
        patch.setattr("imgpull.store.snapshots.views.unmount", lambda target: None)
        other = opened()
    assert "another file system is mounted there" in caplog.text
    (view,) = (place / "snapshots/views").iterdir()
    assert (view / "rootfs/f").read_bytes() == b"1"
    assert seen(other, chain("2")) == {"f": b"1"}
    other.close()
    opened().close()
    assert os.listdir(place / "snapshots/views") == []


@pytest.mark.parametrize("durable", [True, False])
def test_the_order_of_a_commit(
    opened: Opener, database: Database, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Data synced → rename → directory synced → row; without durability the same without the syncs."""
    snapshots = opened(durable=durable)
    commit(snapshots, "0", {})
    steps: list[str] = []
    active = snapshots.prepare("key")
    rename, write = os.rename, database.write
    sync = "imgpull.store.durability.FullSync"
    monkeypatch.setattr(f"{sync}.filesystem", lambda self, fd: steps.append("sync data"))
    monkeypatch.setattr(f"{sync}.directory", lambda self, path: steps.append(f"sync {Path(path).name}"))
    monkeypatch.setattr(os, "rename", lambda *args, **kwargs: (steps.append("rename"), rename(*args, **kwargs))[1])
    monkeypatch.setattr(database, "write", lambda do: (steps.append("row"), write(do))[1])
    snapshots.commit(chain("1"), active.key)
    wanted = ["sync data", "rename", "sync sha256", "row"]
    assert steps == [step for step in wanted if durable or not step.startswith("sync")]
    snapshots.close()


def test_a_failing_sync_commits_nothing(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, fd: int) -> None:
        raise OSError(5, "Input/output error")

    snapshots = opened(durable=True)
    snapshots.prepare("key", target=chain("1"))
    monkeypatch.setattr("imgpull.store.durability.FullSync.filesystem", failing)
    with pytest.raises(StoreError, match="Input/output"):
        snapshots.commit(chain("1"), "key")
    assert chain("1") not in snapshots
    snapshots.remove("key")
    snapshots.close()


def test_a_lost_row_does_not_keep_the_snapshot_locked(
    snapshots: Snapshots, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(do: object) -> None:
        raise StoreError("no space left")

    snapshots.prepare("key")
    with monkeypatch.context() as patch:
        patch.setattr(database, "write", failing)
        with pytest.raises(StoreError, match="no space"):
            snapshots.commit(chain("1"), "key")
    assert chain("1") in snapshots
    assert seen(snapshots, chain("1")) == {}
    snapshots.remove(chain("1"))


def test_what_another_process_wrote_before_the_row_came_stays(
    snapshots: Snapshots, opened: Opener, database: Database, place: Path
) -> None:
    """The row of a commit may come late; meanwhile the snapshot is known by its directory."""
    other = opened()
    with database.gathering():
        commit(snapshots, "1", {})
        commit(snapshots, "2", {})
        assert database.query("SELECT * FROM snapshots") == []
        created_at = json.loads((directory_of(place, chain("1")) / "journal.json").read_bytes())["created_at"]
        row = (chain("1"), "committed", "sha256/x", created_at, '{"of": "another"}')
        with contextlib.closing(sqlite3.connect(database.path)) as elsewhere, elsewhere:
            elsewhere.execute(
                "INSERT INTO snapshots (name, kind, directory, created_at, labels) VALUES (?, ?, ?, ?, ?)", row
            )
        database.write(lambda _: None)
    assert other.stat(chain("1")).labels == {"of": "another"}
    assert {found["name"] for found in database.query("SELECT name FROM snapshots")} == {chain("1"), chain("2")}
    other.close()


def test_a_row_that_comes_late_replaces_one_of_an_earlier_snapshot_of_that_name(
    snapshots: Snapshots, database: Database
) -> None:
    database.write(
        lambda connection: connection.execute(
            "INSERT INTO snapshots (name, kind, directory, created_at, labels) VALUES (?, ?, ?, ?, ?)",
            (chain("1"), "committed", "sha256/x", "2001-01-01T00:00:00+00:00", '{"old": "1"}'),
        )
    )
    commit(snapshots, "1", {})
    assert snapshots.stat(chain("1")).labels == {}


def test_a_row_that_comes_late_leaves_one_of_a_later_snapshot_of_that_name(
    snapshots: Snapshots, database: Database
) -> None:
    """Another process removed it and made it again meanwhile."""
    with database.gathering():
        commit(snapshots, "1", {})
        row = (chain("1"), "committed", "sha256/x", "9999-01-01T00:00:00+00:00", '{"new": "1"}')
        with contextlib.closing(sqlite3.connect(database.path)) as elsewhere, elsewhere:
            elsewhere.execute(
                "INSERT INTO snapshots (name, kind, directory, created_at, labels) VALUES (?, ?, ?, ?, ?)", row
            )
        database.write(lambda _: None)
    assert [found["labels"] for found in database.query("SELECT labels FROM snapshots")] == ['{"new": "1"}']


def test_what_was_removed_before_its_row_came_gets_none(snapshots: Snapshots, database: Database, place: Path) -> None:
    with database.gathering():
        commit(snapshots, "1", {})
        directory_of(place, chain("1")).rename(place / "lost")
        database.write(lambda _: None)
    assert database.query("SELECT * FROM snapshots") == []
