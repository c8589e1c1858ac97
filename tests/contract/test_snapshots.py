"""The contract of a snapshotter, after containerd's ``core/snapshots/testsuite``: what is prepared, committed, seen,
listed, kept and refused. Layers are written as an applier does it: own entries into the tree, deletions into a journal.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fakes.trees import Entry, give_default_acl, open_descriptors, read_tree, write_tree
from imgpull.errors import AlreadyExistsError, SnapshotInUseError, SnapshotNotFoundError, StoreCorruptError, StoreError
from imgpull.oci import EMPTY_CHAIN_ID, Digest
from imgpull.store.database import Database
from imgpull.store.snapshots import Journal, SnapshotInfo, Snapshots, Usage, inherited_labels

ROOT = os.geteuid() == 0
no_way_in = pytest.mark.skipif(not ROOT, reason="only root can work below a directory it may not enter")
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def chain(text: str) -> str:
    return Digest.of_bytes(text.encode())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock", durability="none")
    yield made
    made.close()


@pytest.fixture
def snapshots(tmp_path: Path, database: Database) -> Iterator[Snapshots]:
    made = opened(tmp_path, database)
    yield made
    made.close()


def opened(tmp_path: Path, database: Database, *, durable: bool = False, read_only: bool = False) -> Snapshots:
    return Snapshots(tmp_path / "snapshots", database, durable=durable, read_only=read_only, clock=lambda: NOON)


def commit(
    snapshots: Snapshots,
    name: str,
    entries: Mapping[str, Entry],
    parent: str | None = None,
    *,
    gone: tuple[str, ...] = (),
) -> str:
    """A layer ``name`` on ``parent``: these entries, and ``gone`` no longer there."""
    active = snapshots.prepare(f"writing {name}", parent)
    write_tree(active.path, entries)
    journal = Journal()
    for path in gone:
        *directory, last = path.encode().split(b"/")
        journal.whiteout(tuple(directory), last)
    return snapshots.commit(chain(name), active.key, journal=journal).name


def seen(snapshots: Snapshots, name: str) -> dict[str, bytes | None]:
    """What a view shows: files with their content, directories as None."""
    found: dict[str, bytes | None] = {}
    with snapshots.view(name) as rootfs:
        for path, directories, files in rootfs.walk(""):
            found |= {os.path.join(path, directory): None for directory in directories}
            found |= {os.path.join(path, file): rootfs.read_bytes(os.path.join(path, file)) for file in files}
    return found


# -- prepare, commit, stat -------------------------------------------------------------------------------------------


def test_basic(snapshots: Snapshots) -> None:
    first = snapshots.prepare("preparing")
    write_tree(first.path, {"foo": b"foo\n", "a/b/c": None})
    assert snapshots.commit(chain("one"), "preparing").parent is None
    with pytest.raises(SnapshotNotFoundError):
        snapshots.stat("preparing")

    second = snapshots.prepare("next", chain("one"))
    assert os.listdir(second.path) == []
    assert seen(snapshots, chain("one")) == {"foo": b"foo\n", "a": None, "a/b": None, "a/b/c": None}
    write_tree(second.path, {"bar": b"bar\n", "foo": b"bar\n"})
    journal = Journal()
    journal.whiteout((b"a",), b"b")
    assert snapshots.stat("next").parent == chain("one")
    snapshots.commit(chain("two"), "next", journal=journal)

    assert {info.name: info for info in snapshots.walk()} == {
        name: snapshots.stat(name) for name in (chain("one"), chain("two"))
    }
    assert seen(snapshots, chain("two")) == {"bar": b"bar\n", "foo": b"bar\n", "a": None}
    with pytest.raises(SnapshotInUseError, match="remove"):
        snapshots.remove(chain("one"))
    snapshots.remove(chain("two"))
    snapshots.remove(chain("one"))
    assert list(snapshots.walk()) == []


def test_stat_of_an_active_snapshot(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {})
    snapshots.prepare("key", chain("one"), labels={"a": "b"})
    assert snapshots.stat("key") == SnapshotInfo("key", "active", chain("one"), {"a": "b"}, NOON.isoformat())


def test_stat_of_a_committed_snapshot(snapshots: Snapshots) -> None:
    snapshots.prepare("key", labels={"a": "b", "c": "d"})
    given = snapshots.commit(chain("one"), "key", diff_id=chain("diff"), size_bytes=10, inodes=3, labels={"c": "e"})
    assert given == SnapshotInfo(
        chain("one"), "committed", None, {"a": "b", "c": "e"}, NOON.isoformat(), 10, 3, chain("diff")
    )
    assert snapshots.stat(chain("one")) == given


def test_transitivity(snapshots: Snapshots) -> None:
    commit(snapshots, "a", {"foo": b"foo"})
    commit(snapshots, "b", {"foo": b"foo bar"}, chain("a"))
    parent = snapshots.stat(chain("b")).parent
    assert parent == chain("a")
    assert snapshots.stat(parent).parent is None
    assert snapshots.chain(chain("b")) == (chain("a"), chain("b"))


def test_a_key_is_taken_once(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {})
    snapshots.prepare("key", chain("one"))
    with pytest.raises(AlreadyExistsError, match="taken") as caught:
        snapshots.prepare("key", chain("one"))
    assert caught.value.key == "key"
    with pytest.raises(AlreadyExistsError):
        snapshots.prepare(chain("one"))
    with pytest.raises(SnapshotNotFoundError):
        snapshots.view("key")


def test_a_key_whose_process_is_gone_is_still_taken(snapshots: Snapshots, database: Database, tmp_path: Path) -> None:
    write_tree(snapshots.prepare("key").path, {"f": b"own work"})
    snapshots.close()
    other = opened(tmp_path, database)
    with pytest.raises(AlreadyExistsError, match="taken"):
        other.prepare("key")
    other.commit(chain("one"), "key")
    assert seen(other, chain("one")) == {"f": b"own work"}
    other.close()


def test_of_many_that_want_a_key_one_gets_it(snapshots: Snapshots) -> None:
    start = threading.Barrier(8)
    got: list[object] = []

    def want() -> None:
        start.wait()
        try:
            got.append(snapshots.prepare("key"))
        except AlreadyExistsError as error:
            got.append(error)

    threads = [threading.Thread(target=want, name=f"wants-{number}") for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(got) == 8
    assert sum(not isinstance(outcome, AlreadyExistsError) for outcome in got) == 1


def test_a_target_that_is_committed_need_not_be_prepared(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {})
    with pytest.raises(AlreadyExistsError) as caught:
        snapshots.prepare("key", target=chain("one"))
    assert caught.value.key == chain("one")
    assert [info.name for info in snapshots.walk()] == [chain("one")]


def test_an_unknown_parent(snapshots: Snapshots) -> None:
    for parent in (chain("none"), "no name at all", "sha256:../../etc"):
        with pytest.raises(SnapshotNotFoundError):
            snapshots.prepare("key", parent)
    assert list(snapshots.walk()) == []


def test_committing_twice_and_what_was_never_prepared(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {"f": b"first"})
    active = snapshots.prepare("key")
    write_tree(active.path, {"f": b"second"})
    with pytest.raises(AlreadyExistsError):
        snapshots.commit(chain("one"), "key")
    assert seen(snapshots, chain("one")) == {"f": b"first"}
    assert snapshots.stat("key").kind == "active"
    snapshots.remove("key")
    for key in ("key", "never", chain("one")):
        with pytest.raises(SnapshotNotFoundError):
            snapshots.commit(chain("two"), key)
    assert chain("two") not in snapshots


def test_a_name_committed_while_its_twin_was_synced(
    snapshots: Snapshots, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened(tmp_path, database)
    write_tree(snapshots.prepare("slow").path, {"who": b"slow"})
    write_tree(other.prepare("quick").path, {"who": b"quick"})

    def overtaken(self: object, fd: int) -> None:
        monkeypatch.undo()
        other.commit(chain("one"), "quick")

    monkeypatch.setattr("imgpull.store.durability.NoSync.filesystem", overtaken)
    with pytest.raises(AlreadyExistsError) as caught:
        snapshots.commit(chain("one"), "slow")
    assert caught.value.key == chain("one")
    assert seen(snapshots, chain("one")) == {"who": b"quick"}
    assert snapshots.stat("slow").kind == "active"
    other.close()


def test_a_name_that_is_committed_costs_no_sync(snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(snapshots, "one", {})
    snapshots.prepare("key")
    monkeypatch.setattr("imgpull.store.durability.NoSync.filesystem", lambda self, fd: pytest.fail("synced"))
    with pytest.raises(AlreadyExistsError):
        snapshots.commit(chain("one"), "key")


@pytest.mark.parametrize("name", ["latest", "sha256:../../x", f"sha256:{'A' * 64}", f"../sha256:{'a' * 64}", ""])
def test_a_name_that_is_no_chain_id_is_refused(snapshots: Snapshots, name: str) -> None:
    snapshots.prepare("key")
    assert name not in snapshots
    with pytest.raises(StoreError, match="can't name"):
        snapshots.commit(name, "key")
    assert snapshots.stat("key").kind == "active"


def test_of_many_that_commit_one_name_one_wins(snapshots: Snapshots) -> None:
    start = threading.Barrier(6)
    won: list[str] = []
    lost: list[str] = []

    def race(key: str) -> None:
        active = snapshots.prepare(key)
        write_tree(active.path, {"who": key.encode()})
        start.wait()
        try:
            snapshots.commit(chain("one"), key)
            won.append(key)
        except AlreadyExistsError:
            lost.append(key)
            snapshots.remove(key)

    threads = [threading.Thread(target=race, args=(f"key-{number}",), name=f"race-{number}") for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(won), len(lost)) == (1, 5)
    assert seen(snapshots, chain("one")) == {"who": won[0].encode()}
    assert [info.name for info in snapshots.walk()] == [chain("one")]


def test_rebase(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {"a": b"1"})
    write_tree(snapshots.prepare("alone").path, {"b": b"2"})
    assert snapshots.commit(chain("two"), "alone", parent=chain("one")).parent == chain("one")
    assert seen(snapshots, chain("two")) == {"a": b"1", "b": b"2"}
    snapshots.prepare("on one", chain("one"))
    with pytest.raises(StoreError, match="was prepared on"):
        snapshots.commit(chain("three"), "on one", parent=chain("two"))
    with pytest.raises(SnapshotNotFoundError):
        snapshots.commit(chain("three"), snapshots.prepare("other").key, parent=chain("none"))


def test_the_image_without_layers(snapshots: Snapshots) -> None:
    snapshots.prepare("key", target=EMPTY_CHAIN_ID)
    snapshots.commit(EMPTY_CHAIN_ID, "key")
    assert EMPTY_CHAIN_ID in snapshots
    assert seen(snapshots, EMPTY_CHAIN_ID) == {}


# -- update, usage, walk, remove -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["active", "committed"])
def test_update(snapshots: Snapshots, kind: str) -> None:
    snapshots.prepare("key", labels={"keep": "1", "change": "1", "drop": "1"})
    name = "key" if kind == "active" else snapshots.commit(chain("one"), "key").name
    before = snapshots.stat(name)
    changed = snapshots.update(name, {"change": "2", "add": "3", "drop": None, "unknown": None})
    assert changed.labels == {"keep": "1", "change": "2", "add": "3"}
    assert snapshots.stat(name) == changed
    assert (changed.name, changed.kind, changed.created_at) == (before.name, before.kind, before.created_at)


def test_labels_of_an_active_snapshot_are_committed_with_it(snapshots: Snapshots) -> None:
    snapshots.prepare("key", labels={"a": "1"})
    snapshots.update("key", {"b": "2"})
    assert snapshots.commit(chain("one"), "key").labels == {"a": "1", "b": "2"}


def test_what_is_not_there(snapshots: Snapshots) -> None:
    for name in (chain("none"), "no key", "", "a\0b", "\udc80"):
        for act in (
            snapshots.stat,
            snapshots.usage,
            snapshots.remove,
            snapshots.view,
            snapshots.merged,
            snapshots.chain,
            lambda name: snapshots.update(name, {}),
        ):
            with pytest.raises(SnapshotNotFoundError):
                act(name)
        assert name not in snapshots
    assert 7 not in snapshots


def test_usage(snapshots: Snapshots) -> None:
    active = snapshots.prepare("key")
    write_tree(active.path, {"d/f": b"12345", "g": b"678", "link": "g"})
    os.link(active.path / "g", active.path / "same")
    assert snapshots.usage("key") == Usage(size_bytes=8, inodes=5)
    snapshots.commit(chain("one"), "key")
    assert snapshots.usage(chain("one")) == Usage(size_bytes=8, inodes=5)
    commit(snapshots, "two", {"only": b"1"}, chain("one"))
    assert snapshots.usage(chain("two")) == Usage(size_bytes=1, inodes=2)


def test_walk_and_stat_in_walk(snapshots: Snapshots) -> None:
    names = {commit(snapshots, "one", {}), commit(snapshots, "two", {}, chain("one"))}
    snapshots.prepare("active", chain("two"))
    found = set()
    for info in snapshots.walk():
        assert snapshots.stat(info.name) == info
        found.add(info.name)
    assert found == {*names, "active"}


def test_removing_in_a_walk(snapshots: Snapshots) -> None:
    for name in ("one", "two", "three"):
        commit(snapshots, name, {})
    for info in snapshots.walk():
        snapshots.remove(info.name)
    assert list(snapshots.walk()) == []


def test_remove_intermediate(snapshots: Snapshots) -> None:
    commit(snapshots, "base", {})
    commit(snapshots, "middle", {}, chain("base"))
    snapshots.prepare("top", chain("middle"))
    for name in ("base", "middle"):
        with pytest.raises(SnapshotInUseError):
            snapshots.remove(chain(name))
    snapshots.remove("top")
    snapshots.remove(chain("middle"))
    snapshots.remove(chain("base"))


def test_removing_takes_everything_off_the_disk(snapshots: Snapshots, database: Database, tmp_path: Path) -> None:
    commit(snapshots, "one", {"a/b": b"0", "c": "/etc"})
    write_tree(snapshots.prepare("key").path, {"a/b": b"0"})
    snapshots.remove(chain("one"))
    snapshots.remove("key")
    assert chain("one") not in snapshots
    assert sorted(path.name for path in (tmp_path / "snapshots").rglob("*")) == ["active", "removed", "sha256", "views"]
    assert database.query("SELECT * FROM snapshots") == []
    snapshots.prepare("key")
    commit(snapshots, "one", {})


def test_a_snapshot_removed_and_made_again_with_another_journal(snapshots: Snapshots) -> None:
    commit(snapshots, "base", {"a": b"0", "b": b"0"})
    commit(snapshots, "top", {}, chain("base"), gone=("a",))
    assert seen(snapshots, chain("top")) == {"b": b"0"}
    snapshots.remove(chain("top"))
    commit(snapshots, "top", {}, chain("base"), gone=("b",))
    assert seen(snapshots, chain("top")) == {"a": b"0"}


def test_a_snapshot_made_again_in_the_same_instant_is_read_again(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgpull.store.snapshots.committed._identity", lambda path: (1, 1, 1))
    test_a_snapshot_removed_and_made_again_with_another_journal(snapshots)


def test_a_viewed_snapshot_is_not_removed(snapshots: Snapshots, database: Database, tmp_path: Path) -> None:
    commit(snapshots, "one", {"f": b"0"})
    with snapshots.view(chain("one")) as rootfs:
        other = opened(tmp_path, database)
        with pytest.raises(SnapshotInUseError, match="viewed"):
            other.remove(chain("one"))
        assert rootfs.read_bytes("f") == b"0"
    other.remove(chain("one"))
    other.close()


def test_an_active_snapshot_of_another_owner_is_not_touched(
    snapshots: Snapshots, database: Database, tmp_path: Path
) -> None:
    snapshots.prepare("key", target=chain("one"))
    other = opened(tmp_path, database)
    for act in (lambda: other.remove("key"), lambda: other.commit(chain("one"), "key")):
        with pytest.raises(SnapshotInUseError, match="being written"):
            act()
    snapshots.commit(chain("one"), "key")
    other.close()


def test_inherited_labels() -> None:
    annotations = {
        "containerd.io/snapshot/remote": "1",
        "containerd.io/snapshot.ref": "2",
        "containerd.io/snapshot": "no",
        "org.opencontainers.image.title": "no",
    }
    assert inherited_labels(annotations) == {"containerd.io/snapshot/remote": "1", "containerd.io/snapshot.ref": "2"}


# -- what is in them -------------------------------------------------------------------------------------------------


def test_layer_file_update(snapshots: Snapshots) -> None:
    commit(snapshots, "1", {"etc/hosts": b"10.0.0.1", "etc/profile": b"PATH=/usr/bin"})
    active = snapshots.prepare("2", chain("1"))
    write_tree(active.path, {"etc/hosts": b"10.0.0.2", "etc/profile": b"PATH=/usr/bin", "root/.bashrc": b"x"})
    os.chmod(active.path / "etc/profile", 0o666)
    snapshots.commit(chain("2"), "2")
    with snapshots.view(chain("2")) as rootfs:
        assert rootfs.read_text("etc/hosts") == "10.0.0.2"
        assert stat.S_IMODE(rootfs.stat("etc/profile").st_mode) == 0o666
        assert rootfs.listdir("root") == [".bashrc"]


def test_remove_directory_in_lower_layer(snapshots: Snapshots) -> None:
    commit(snapshots, "1", {"lib/hidden": b""})
    commit(snapshots, "2", {"lib/not-hidden": b""}, chain("1"), gone=("lib",))
    commit(snapshots, "3", {"lib/newfile": b""}, chain("2"))
    assert sorted(seen(snapshots, chain("3"))) == ["lib", "lib/newfile", "lib/not-hidden"]


def test_deleted_files_in_child(snapshots: Snapshots) -> None:
    commit(snapshots, "1", {"foo": b"foo", "foobar": b"foobar"})
    commit(snapshots, "2", {}, chain("1"), gone=("foobar",))
    commit(snapshots, "3", {}, chain("2"))
    assert seen(snapshots, chain("3")) == {"foo": b"foo"}
    assert seen(snapshots, chain("1")) == {"foo": b"foo", "foobar": b"foobar"}


def test_rename_in_a_child(snapshots: Snapshots) -> None:
    commit(snapshots, "1", {"dir1/x": b"x", "some/f1": b"was here first!", "some/f2": b"2"})
    commit(snapshots, "2", {"dir2/x": b"x", "some/f1": b"new", "some/f3": b"2"}, chain("1"), gone=("dir1", "some/f2"))
    files = {name: data for name, data in seen(snapshots, chain("2")).items() if data is not None}
    assert files == {"dir2/x": b"x", "some/f1": b"new", "some/f3": b"2"}


@pytest.mark.skipif(not ROOT, reason="giving files away needs root")
def test_chown_and_directory_permission(snapshots: Snapshots) -> None:
    commit(snapshots, "1", {"opt/a/b/file": b"hello", "dir1": None, "dir2": None})
    active = snapshots.prepare("2", chain("1"))
    write_tree(active.path, {"opt/a/b/file": b"hello", "dir2": None})
    for name in ("opt", "opt/a", "opt/a/b", "opt/a/b/file", "dir2"):
        os.chown(active.path / name, 1, 2)
    os.chmod(active.path / "dir2", 0o2711)
    snapshots.commit(chain("2"), "2")
    with snapshots.view(chain("2")) as rootfs:
        for place in (rootfs.path, None):
            for name, owner in (("opt/a/b", 1), ("opt/a/b/file", 1), ("dir2", 1), ("dir1", 0)):
                status = rootfs.stat(name) if place is None else (place / name).stat()
                assert (status.st_uid, status.st_gid) == (owner, owner * 2)
            status = rootfs.stat("dir2") if place is None else (place / "dir2").stat()
            assert stat.S_IMODE(status.st_mode) == 0o2711


@pytest.mark.parametrize("mask", [0, 0o077, pytest.param(0o777, marks=no_way_in)])
def test_root_permission_whatever_the_umask(tmp_path: Path, database: Database, mask: int) -> None:
    previous = os.umask(mask)
    try:
        snapshots = opened(tmp_path, database)
        active = snapshots.prepare("key")
        assert stat.S_IMODE(active.path.stat().st_mode) == 0o755
        snapshots.commit(chain("one"), "key")
        with snapshots.view(chain("one")) as rootfs:
            assert stat.S_IMODE(rootfs.path.stat().st_mode) == 0o755
            private = [path for path in (tmp_path / "snapshots").rglob("*") if path.name not in ("fs", "rootfs")]
            assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in private if path.is_dir()} == {"0o700"}
        snapshots.close()
    finally:
        os.umask(previous)


def test_an_access_list_around_the_store_has_no_say(tmp_path: Path, database: Database) -> None:
    give_default_acl(tmp_path)
    snapshots = opened(tmp_path, database)
    commit(snapshots, "one", {"d/f": b"0"})
    kept = [os.listxattr(path, follow_symlinks=False) for path in (tmp_path / "snapshots").rglob("*")]
    assert not any(name.startswith("system.posix_acl") for names in kept for name in names)
    snapshots.close()


def test_the_root_of_a_child_is_as_its_parents(snapshots: Snapshots) -> None:
    active = snapshots.prepare("1")
    os.chmod(active.path, 0o555)
    os.utime(active.path, ns=(1_000_000_000_000_000_001,) * 2)
    if ROOT:
        os.chown(active.path, 3, 4)
    parent = active.path.stat()
    snapshots.commit(chain("1"), "1")
    child = snapshots.prepare("2", chain("1")).path.stat()
    assert (child.st_uid, child.st_gid, child.st_mtime_ns) == (parent.st_uid, parent.st_gid, parent.st_mtime_ns)
    assert stat.S_IMODE(child.st_mode) == (0o555 if ROOT else 0o755)


def test_128_layers(snapshots: Snapshots) -> None:
    parent: str | None = None
    commit(snapshots, "the first opens the database", {})
    before = len(open_descriptors())
    for number in range(1, 129):
        gone = (str(number - 2),) if number > 2 else ()
        entries: dict[str, Entry] = {"bottom": str(number).encode(), str(number): b"x", f"dir/{number}": b"x"}
        parent = commit(snapshots, f"layer {number}", entries, parent, gone=gone)
    assert parent is not None
    assert len(open_descriptors()) <= before
    found = seen(snapshots, parent)
    assert found["bottom"] == b"128"
    assert sorted(name for name in found if name.isdigit()) == ["127", "128"]
    assert sum(name.startswith("dir/") for name in found) == 128
    with snapshots.view(parent) as rootfs:
        assert len(list((rootfs.path / "dir").iterdir())) == 128


# -- views -----------------------------------------------------------------------------------------------------------


def test_the_path_of_a_view_is_made_and_goes_with_it(snapshots: Snapshots, tmp_path: Path) -> None:
    commit(snapshots, "1", {"a/f": b"1", "gone": b"1"})
    commit(snapshots, "2", {"b": "a"}, chain("1"), gone=("gone",))
    before = open_descriptors()
    with snapshots.view(chain("2")) as rootfs:
        assert os.listdir(tmp_path / "snapshots/views") == []
        path = rootfs.path
        assert path.is_relative_to(tmp_path / "snapshots/views")
        assert sorted(read_tree(path)) == ["", "a", "a/f", "b"]
        assert (path / "a/f").samefile(tmp_path / "snapshots" / chain("1").replace(":", "/") / "fs/a/f")
        assert rootfs.path == path
    assert not path.exists()
    assert os.listdir(tmp_path / "snapshots/views") == []
    assert open_descriptors() == before


def test_a_view_that_cannot_be_made_lets_go(snapshots: Snapshots, tmp_path: Path) -> None:
    commit(snapshots, "1", {})
    commit(snapshots, "2", {}, chain("1"))
    document = tmp_path / "snapshots" / chain("1").replace(":", "/") / "journal.json"
    fresh = document.read_bytes()
    document.unlink()
    before = open_descriptors()
    other = opened(tmp_path, snapshots._committed._database)
    with pytest.raises(StoreCorruptError, match="journal.json is missing"):
        other.view(chain("2"))
    assert open_descriptors() == before
    document.write_bytes(fresh)
    other.remove(chain("2"))
    other.close()


def test_unpack_is_a_tree_of_its_own(snapshots: Snapshots, tmp_path: Path) -> None:
    commit(snapshots, "1", {"f": b"stored"})
    commit(snapshots, "2", {"d/g": b"2"}, chain("1"))
    assert snapshots.unpack(chain("2"), tmp_path / "target") == []
    (tmp_path / "target/f").write_bytes(b"changed by its owner")
    assert seen(snapshots, chain("2")) == {"f": b"stored", "d": None, "d/g": b"2"}
    with pytest.raises(AlreadyExistsError):
        snapshots.unpack(chain("2"), tmp_path / "target")
    with pytest.raises(SnapshotNotFoundError):
        snapshots.unpack(chain("none"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_read_only(snapshots: Snapshots, database: Database, tmp_path: Path) -> None:
    commit(snapshots, "1", {"f": b"1"})
    reader = opened(tmp_path, database, read_only=True)
    assert chain("1") in reader
    with reader.view(chain("1")) as rootfs:
        path = rootfs.path
        assert not path.is_relative_to(tmp_path / "snapshots")
        assert (path / "f").read_bytes() == b"1"
    assert not path.parent.exists()
    for act in (
        lambda: reader.prepare("key"),
        lambda: reader.commit(chain("2"), "key"),
        lambda: reader.update(chain("1"), {}),
        lambda: reader.remove(chain("1")),
    ):
        with pytest.raises(StoreError, match="read-only"):
            act()
    reader.close()


def test_a_read_only_store_that_never_had_a_snapshot(database: Database, tmp_path: Path) -> None:
    reader = opened(tmp_path, database, read_only=True)
    assert list(reader.walk()) == []
    assert chain("1") not in reader
    assert not (tmp_path / "snapshots").exists()


# -- crashes ---------------------------------------------------------------------------------------------------------


def test_close_twice(snapshots: Snapshots) -> None:
    before = open_descriptors()
    snapshots.prepare("key")
    snapshots.close()
    snapshots.close()
    assert open_descriptors() == before


def test_what_was_committed_is_there_without_its_row(snapshots: Snapshots, database: Database, tmp_path: Path) -> None:
    commit(snapshots, "1", {"f": b"1"})
    snapshots.prepare("key", chain("1"), labels={"a": "b"})
    info = snapshots.commit(chain("2"), "key", diff_id=chain("diff"))
    database.write(lambda connection: connection.execute("DELETE FROM snapshots"))
    other = opened(tmp_path, database)
    assert chain("2") in other
    assert seen(other, chain("2")) == {"f": b"1"}
    with pytest.raises(SnapshotInUseError):
        other.remove(chain("1"))
    assert other.stat(chain("2")) == info
    assert {found.name for found in other.walk()} == {chain("1"), chain("2")}
    assert len(database.query("SELECT * FROM snapshots")) == 2
    other.close()


def test_a_row_without_its_directory_is_no_snapshot(snapshots: Snapshots, tmp_path: Path) -> None:
    commit(snapshots, "1", {})
    (tmp_path / "snapshots" / chain("1").replace(":", "/")).rename(tmp_path / "lost")
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
def test_a_damaged_journal_is_named(snapshots: Snapshots, database: Database, tmp_path: Path, damage: bytes) -> None:
    commit(snapshots, "1", {})
    document = tmp_path / "snapshots" / chain("1").replace(":", "/") / "journal.json"
    document.write_bytes(damage)
    other = opened(tmp_path, database)
    with pytest.raises(StoreCorruptError, match="pull into a new store") as caught:
        other.view(chain("1"))
    assert str(document) in str(caught.value)
    other.close()


def test_a_broken_chain_is_named(snapshots: Snapshots, database: Database, tmp_path: Path) -> None:
    commit(snapshots, "1", {})
    commit(snapshots, "2", {}, chain("1"))
    lower = tmp_path / "snapshots" / chain("1").replace(":", "/")
    lower.rename(tmp_path / "lost")
    with pytest.raises(StoreCorruptError, match="is missing"):
        snapshots.chain(chain("2"))
    (tmp_path / "lost").rename(lower)
    document = json.loads((lower / "journal.json").read_text())
    (lower / "journal.json").write_text(json.dumps({**document, "parent": chain("2")}))
    other = opened(tmp_path, database)
    with pytest.raises(StoreCorruptError, match="own ancestor"):
        other.chain(chain("2"))
    other.close()


def test_what_a_crash_left_half_removed_goes_at_the_next_open(
    snapshots: Snapshots, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(snapshots, "1", {"f": b"1"})

    def crash(path: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("imgpull.store.snapshots.committed.remove_tree", crash)
        with pytest.raises(KeyboardInterrupt):
            snapshots.remove(chain("1"))
    assert chain("1") not in snapshots
    assert len(os.listdir(tmp_path / "snapshots/removed")) == 1
    opened(tmp_path, database).close()
    assert os.listdir(tmp_path / "snapshots/removed") == []


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


def test_a_killed_process_leaves_its_work_and_no_scratch(
    snapshots: Snapshots, database: Database, tmp_path: Path
) -> None:
    commit(snapshots, "1", {"f": b"1"})
    with subprocess.Popen(
        [sys.executable, "-c", CRASH, str(tmp_path), chain("1")], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            living = opened(tmp_path, database)
            assert {info.name for info in living.walk()} == {chain("1"), "scratch", "own work"}
            assert len(os.listdir(tmp_path / "snapshots/views")) == 1
            with pytest.raises(SnapshotInUseError):
                living.remove(chain("1"))
            living.close()
        finally:
            process.kill()
    after = opened(tmp_path, database)
    assert {info.name for info in after.walk()} == {chain("1"), "own work"}
    assert os.listdir(tmp_path / "snapshots/views") == []
    after.commit(chain("2"), "own work", parent=chain("1"))
    assert seen(after, chain("2")) == {"f": b"0"}
    after.close()


@pytest.mark.parametrize("durable", [True, False])
def test_the_order_of_a_commit(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Data synced → rename → directory synced → row; without durability the same without the syncs."""
    snapshots = opened(tmp_path, database, durable=durable)
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


def test_a_failing_sync_commits_nothing(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, fd: int) -> None:
        raise OSError(5, "Input/output error")

    snapshots = opened(tmp_path, database, durable=True)
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
