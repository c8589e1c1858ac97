"""The contract of a snapshotter: views, their paths, and trees unpacked from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes.snapshots import Opener, chain, commit, directory_of, seen
from fakes.trees import open_descriptors, read_tree
from imgpull.errors import AlreadyExistsError, SnapshotNotFoundError, StoreCorruptError, StoreError
from imgpull.store.snapshots import Snapshots


def test_the_path_of_a_view_is_made_and_goes_with_it(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {"a/f": b"1", "gone": b"1"})
    commit(snapshots, "2", {"b": "a"}, chain("1"), gone=("gone",))
    before = open_descriptors()
    with snapshots.view(chain("2")) as rootfs:
        assert os.listdir(place / "snapshots/views") == []
        path = rootfs.path
        assert path.is_relative_to(place / "snapshots/views")
        assert sorted(read_tree(path)) == ["", "a", "a/f", "b"]
        assert (path / "a/f").samefile(directory_of(place, chain("1")) / "fs/a/f")
        assert rootfs.path == path
    assert not path.exists()
    assert os.listdir(place / "snapshots/views") == []
    assert open_descriptors() == before


def test_a_view_that_cannot_be_made_lets_go(snapshots: Snapshots, opened: Opener, place: Path) -> None:
    commit(snapshots, "1", {})
    commit(snapshots, "2", {}, chain("1"))
    document = directory_of(place, chain("1")) / "journal.json"
    fresh = document.read_bytes()
    document.unlink()
    before = open_descriptors()
    other = opened()
    with pytest.raises(StoreCorruptError, match="journal.json is missing"):
        other.view(chain("2"))
    assert open_descriptors() == before
    document.write_bytes(fresh)
    other.remove(chain("2"))
    other.close()


def test_unpack_is_a_tree_of_its_own(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {"f": b"stored"})
    commit(snapshots, "2", {"d/g": b"2"}, chain("1"))
    assert snapshots.unpack(chain("2"), place / "target") == []
    (place / "target/f").write_bytes(b"changed by its owner")
    assert seen(snapshots, chain("2")) == {"f": b"stored", "d": None, "d/g": b"2"}
    with pytest.raises(AlreadyExistsError):
        snapshots.unpack(chain("2"), place / "target")
    with pytest.raises(SnapshotNotFoundError):
        snapshots.unpack(chain("none"), place / "other")
    assert not (place / "other").exists()


def test_read_only(snapshots: Snapshots, opened: Opener, place: Path) -> None:
    commit(snapshots, "1", {"f": b"1"})
    reader = opened(read_only=True)
    assert chain("1") in reader
    with reader.view(chain("1")) as rootfs:
        path = rootfs.path
        assert not path.is_relative_to(place / "snapshots")
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


def test_a_read_only_store_that_never_had_a_snapshot(opened: Opener, place: Path) -> None:
    reader = opened(read_only=True)
    assert list(reader.walk()) == []
    assert chain("1") not in reader
    assert not (place / "snapshots").exists()
