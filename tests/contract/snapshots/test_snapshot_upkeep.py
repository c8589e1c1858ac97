"""The contract of a snapshotter: what is listed, changed, measured, removed, and refused to be removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes.snapshots import Opener, chain, commit, seen
from fakes.trees import write_tree
from imgpull.errors import SnapshotInUseError, SnapshotNotFoundError
from imgpull.store.database import Database
from imgpull.store.snapshots import Snapshots, Usage, inherited_labels


@pytest.mark.parametrize("state", ["active", "committed"])
def test_update(snapshots: Snapshots, state: str) -> None:
    snapshots.prepare("key", labels={"keep": "1", "change": "1", "drop": "1"})
    name = "key" if state == "active" else snapshots.commit(chain("one"), "key").name
    before = snapshots.stat(name)
    changed = snapshots.update(name, {"change": "2", "add": "3", "drop": None, "unknown": None})
    assert changed.labels == {"keep": "1", "change": "2", "add": "3"}
    assert snapshots.stat(name) == changed
    assert (changed.name, changed.kind, changed.created_at) == (before.name, before.kind, before.created_at)


def test_labels_of_an_active_snapshot_are_committed_with_it(snapshots: Snapshots) -> None:
    snapshots.prepare("key", labels={"a": "1"})
    snapshots.update("key", {"b": "2"})
    assert snapshots.commit(chain("one"), "key").labels == {"a": "1", "b": "2"}


def test_so_are_those_of_a_second_change(snapshots: Snapshots) -> None:
    """Each is a new file, and the second may get the inode that the first record had."""
    snapshots.prepare("key")
    snapshots.update("key", {"a": "1"})
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


def test_removing_takes_everything_off_the_disk(snapshots: Snapshots, database: Database, place: Path) -> None:
    commit(snapshots, "one", {"a/b": b"0", "c": "/etc"})
    write_tree(snapshots.prepare("key").path, {"a/b": b"0"})
    snapshots.remove(chain("one"))
    snapshots.remove("key")
    assert chain("one") not in snapshots
    assert sorted(path.name for path in (place / "snapshots").rglob("*")) == ["active", "removed", "sha256", "views"]
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


def test_a_viewed_snapshot_is_not_removed(snapshots: Snapshots, opened: Opener) -> None:
    commit(snapshots, "one", {"f": b"0"})
    with snapshots.view(chain("one")) as rootfs:
        other = opened()
        with pytest.raises(SnapshotInUseError, match="viewed"):
            other.remove(chain("one"))
        assert rootfs.read_bytes("f") == b"0"
    other.remove(chain("one"))
    other.close()


def test_an_active_snapshot_of_another_owner_is_not_touched(snapshots: Snapshots, opened: Opener) -> None:
    snapshots.prepare("key", target=chain("one"))
    other = opened()
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
