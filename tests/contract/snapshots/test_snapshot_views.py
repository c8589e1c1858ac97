"""The contract of a snapshotter: views, their paths, and trees unpacked from them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from fakes.filesystems import mounts_below
from fakes.snapshots import Kind, Opener, chain, commit, directory_of, seen
from fakes.trees import open_descriptors, read_tree
from imgpull.errors import AlreadyExistsError, SnapshotNotFoundError, StoreCorruptError, StoreError
from imgpull.store.snapshots import Snapshots


def test_the_path_of_a_view_is_made_and_goes_with_it(snapshots: Snapshots, kind: Kind, place: Path) -> None:
    commit(snapshots, "1", {"a/f": b"1", "gone": b"1"})
    commit(snapshots, "2", {"b": "a"}, chain("1"), gone=("gone",))
    before = open_descriptors()
    with snapshots.view(chain("2")) as rootfs:
        assert os.listdir(place / "snapshots/views") == []
        path = rootfs.path
        assert path.is_relative_to(place / "snapshots/views")
        assert sorted(read_tree(path)) == ["", "a", "a/f", "b"]
        stored = directory_of(place, chain("1")) / "fs/a/f"
        if mounts_below(place) == [str(path)]:
            assert (path / "a/f").stat().st_ino == stored.stat().st_ino
        else:
            assert not kind.mounts
            assert (path / "a/f").samefile(stored)
        assert rootfs.path == path
    assert not path.exists()
    assert os.listdir(place / "snapshots/views") == []
    assert open_descriptors() == before


def test_nothing_is_written_through_a_mount(snapshots: Snapshots, kind: Kind) -> None:
    commit(snapshots, "1", {"f": b"1"})
    with snapshots.view(chain("1")) as rootfs:
        if not kind.mounts:
            pytest.skip("a tree of hard links can be written to")
        for act in (
            lambda path: (path / "f").write_bytes(b"2"),
            lambda path: (path / "new").mkdir(),
            lambda path: os.chmod(path / "f", 0),
            lambda path: (path / "f").unlink(),
        ):
            with pytest.raises(OSError) as caught:
                act(rootfs.path)
            assert caught.value.errno == errno.EROFS
        assert rootfs.read_bytes("f") == b"1"


def test_a_view_that_is_still_in_use_closes(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {"f": b"1"})
    with snapshots.view(chain("1")) as rootfs:
        file = (rootfs.path / "f").open("rb")
    with file:
        assert os.listdir(place / "snapshots/views") == []
        assert mounts_below(place) == []
        assert file.read() == b"1"
    snapshots.remove(chain("1"))


def test_many_views_at_once(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {"a/f": b"1", "gone": b"1"})
    commit(snapshots, "2", {"b": b"2"}, chain("1"), gone=("gone",))
    all_open = threading.Barrier(8)
    found: list[dict[str, bytes | None]] = []

    def look() -> None:
        with snapshots.view(chain("2")) as rootfs:
            assert rootfs.path.is_dir()
            all_open.wait(10)
        found.append(seen(snapshots, chain("2")))

    threads = [threading.Thread(target=look, name=f"looks-{number}") for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [{"a": None, "a/f": b"1", "b": b"2"}] * 8
    assert os.listdir(place / "snapshots/views") == []


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
    commit(snapshots, "1", {"f": b"1", "g": b"1"})
    commit(snapshots, "2", {}, chain("1"), gone=("g",))
    reader = opened(read_only=True)
    assert chain("2") in reader
    assert seen(reader, chain("2")) == {"f": b"1"}
    with reader.view(chain("2")) as rootfs:
        path = rootfs.path
        assert not path.is_relative_to(place / "snapshots")
    assert not path.parent.exists()
    for act in (
        lambda: reader.prepare("key"),
        lambda: reader.commit(chain("3"), "key"),
        lambda: reader.update(chain("2"), {}),
        lambda: reader.remove(chain("2")),
    ):
        with pytest.raises(StoreError, match="read-only"):
            act()
    reader.close()


def test_a_read_only_store_that_never_had_a_snapshot(opened: Opener, place: Path) -> None:
    reader = opened(read_only=True)
    assert list(reader.walk()) == []
    assert chain("1") not in reader
    assert not (place / "snapshots").exists()
