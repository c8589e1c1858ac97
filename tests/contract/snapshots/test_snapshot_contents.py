"""The contract of a snapshotter: what layers show when they lie on each other.

They are written as an applier does it: own entries into the tree, deletions into a journal.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fakes.snapshots import ROOT, Opener, chain, commit, seen
from fakes.trees import Entry, give_default_acl, open_descriptors, write_tree
from imgpull.store.snapshots import Snapshots


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


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_root_permission_whatever_the_umask(opened: Opener, place: Path, mask: int) -> None:
    if mask == 0o777 and not ROOT:
        pytest.skip("a user could not read what it writes")
    previous = os.umask(mask)
    try:
        snapshots = opened()
        active = snapshots.prepare("key")
        assert stat.S_IMODE(active.path.stat().st_mode) == 0o755
        snapshots.commit(chain("one"), "key")
        with snapshots.view(chain("one")) as rootfs:
            assert stat.S_IMODE(rootfs.path.stat().st_mode) == 0o755
            private = [path for path in (place / "snapshots").rglob("*") if path.name not in ("fs", "rootfs")]
            assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in private if path.is_dir()} == {"0o700"}
        snapshots.close()
    finally:
        os.umask(previous)


def test_an_access_list_around_the_store_has_no_say(opened: Opener, place: Path) -> None:
    give_default_acl(place)
    snapshots = opened()
    commit(snapshots, "one", {"d/f": b"0"})
    kept = [os.listxattr(path, follow_symlinks=False) for path in (place / "snapshots").rglob("*")]
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
