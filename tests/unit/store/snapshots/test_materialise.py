"""A merged view as an ordinary tree: everything kept, nothing shared that must not be."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.trees import Entry, as_nobody, give_default_acl, open_descriptors, place_of_nobody, read_tree, write_tree
from imgpull.errors import AlreadyExistsError, StoreError
from imgpull.store.snapshots import copying
from imgpull.store.snapshots import materialise as module
from imgpull.store.snapshots.layer import Journal, LayerTree
from imgpull.store.snapshots.materialise import materialise, unpack_into
from imgpull.store.snapshots.merged import MergedTree

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="making devices and giving files away needs root")
no_way_in = pytest.mark.skipif(not ROOT, reason="only root can work below a directory it may not enter")
LONG_AGO = 1_000_000_000_123_456_789


def set_times(root: Path) -> None:
    for directory, names, files in os.walk(root, topdown=False):
        for number, name in enumerate(sorted([*names, *files])):
            when = LONG_AGO + number
            os.utime(os.path.join(directory, name), ns=(when, when), follow_symlinks=False)
    os.utime(root, ns=(LONG_AGO, LONG_AGO))


def everything(root: Path) -> Path:
    """A layer with every kind of entry and attribute this user can make."""
    write_tree(
        root,
        {
            "bin/tool": b"#!/bin/sh\n",
            "bin/alias": "tool",
            "dead": "/no/such/place",
            "empty": None,
            "etc/secret": b"s" * 5000,
            "caf\udce9": b"no UTF-8",
            "shared/one": b"hard",
        },
    )
    os.link(root / "shared/one", root / "another")
    os.symlink("x", root / "shared/link")
    os.link(root / "shared/link", root / "shared/same-link", follow_symlinks=False)
    os.mkfifo(root / "shared/fifo")
    with (root / "sparse").open("wb") as file:
        file.seek(4 << 20)
        file.write(b"end")
        file.truncate((4 << 20) + 100_000)
    unreadable = 0 if ROOT else 0o400  # what the store of an ordinary user has instead (see Journal.modes)
    modes = {"bin/tool": 0o4755, "etc/secret": unreadable, "empty": 0o1777, "etc": 0o2750, "shared": 0o555}
    for name, mode in modes.items():
        os.chmod(root / name, mode)
    if ROOT:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "disk", stat.S_IFBLK | 0o640, os.makedev(8, 0))
        os.chown(root / "bin/alias", 7, 8, follow_symlinks=False)
        os.chown(root / "etc", 3, 4)
        os.chown(root / "etc/secret", 12345, 54321)
        os.chown(root / "bin/tool", 5, 6)
        os.chmod(root / "bin/tool", 0o4755)
        os.chmod(root / "etc", 0o2750)
    with_xattrs(root)
    os.chmod(root, 0o711)
    set_times(root)
    return root


def with_xattrs(root: Path) -> None:
    try:
        os.setxattr(root / "sparse", "user.note", b"\0\xff")
        os.setxattr(root / "empty", "user.dir", b"d")
        if ROOT:
            capability = b"\x01\x00\x00\x02\x00\x04" + b"\0" * 14
            os.setxattr(root / "caf\udce9", "security.capability", capability)
            os.setxattr(root / "dead", "trusted.link", b"l", follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def made(tmp_path: Path, layers: list[LayerTree], *, link: bool, name: str = "target") -> Path:
    target = tmp_path / name
    target.mkdir()
    with MergedTree(layers) as tree:
        assert materialise(tree, target, link=link) == []
    return target


@pytest.mark.parametrize("link", [True, False])
def test_everything_is_kept(tmp_path: Path, link: bool) -> None:
    source = everything(tmp_path / "layer")
    before = open_descriptors()
    target = made(tmp_path, [LayerTree(source)], link=link)
    assert read_tree(target) == read_tree(source)
    assert open_descriptors() == before


def test_a_copy_shares_no_inode_and_a_linked_tree_no_directory(tmp_path: Path) -> None:
    source = everything(tmp_path / "layer")
    own = {path.lstat().st_ino for path in source.rglob("*")}
    linked = made(tmp_path, [LayerTree(source)], link=True, name="linked")
    copied = made(tmp_path, [LayerTree(source)], link=False, name="copied")
    assert not own & {path.lstat().st_ino for path in [copied, *copied.rglob("*")]}
    for path in linked.rglob("*"):
        assert (path.lstat().st_ino in own) == (not path.is_dir() or path.is_symlink())


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = everything(tmp_path / "layer")
    target = made(tmp_path, [LayerTree(source)], link=False)
    copy, original = (target / "sparse").stat(), (source / "sparse").stat()
    assert copy.st_size == original.st_size
    if original.st_blocks * 512 < original.st_size:
        assert copy.st_blocks <= original.st_blocks + 16


def test_layers_are_merged(tmp_path: Path) -> None:
    lower = write_tree(tmp_path / "0", {"a/old": b"0", "a/gone": b"0", "d/x": b"0", "t": b"0"})
    upper = write_tree(tmp_path / "1", {"a/new": b"1", "d/y": b"1", "t/in": b"1"})
    os.chmod(upper / "a", 0o700)
    marks = Journal(opaques={(b"d",)})
    marks.whiteout((b"a",), b"gone")
    target = made(tmp_path, [LayerTree(lower), LayerTree(upper, marks)], link=False)
    expected = write_tree(tmp_path / "x", {"a/old": b"0", "a/new": b"1", "d/y": b"1", "t/in": b"1"})
    os.chmod(expected / "a", 0o700)
    assert read_tree(target, times=False) == read_tree(expected, times=False)


@pytest.mark.parametrize("link", [True, False])
def test_a_mode_the_disk_could_not_keep_is_set_on_a_copy(tmp_path: Path, link: bool) -> None:
    source = write_tree(tmp_path / "layer", {"shadow": b"0", "locked/f": b"0"})
    os.link(source / "shadow", source / "shadow-")
    os.chmod(source / "shadow", 0o400)
    os.chmod(source / "locked", 0o500)
    marks = Journal(modes={(b"shadow",): 0, (b"shadow-",): 0, (b"locked",): 0})
    target = made(tmp_path, [LayerTree(source, marks)], link=link)
    assert stat.S_IMODE((target / "locked").stat().st_mode) == 0
    assert stat.S_IMODE((target / "shadow").stat().st_mode) == 0
    assert (target / "shadow").samefile(target / "shadow-")
    assert stat.S_IMODE((source / "shadow").stat().st_mode) == 0o400
    os.chmod(target / "locked", 0o700)


@pytest.mark.parametrize("mask", [0, 0o077, pytest.param(0o777, marks=no_way_in)])
def test_the_umask_has_no_say(tmp_path: Path, mask: int) -> None:
    source = everything(tmp_path / "layer")
    (tmp_path / "target").mkdir()
    previous = os.umask(mask)
    try:
        with MergedTree([LayerTree(source)]) as tree:
            materialise(tree, tmp_path / "target", link=False)
    finally:
        os.umask(previous)
    assert read_tree(tmp_path / "target") == read_tree(source)


def test_an_access_list_and_setgid_of_the_target_have_no_say(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "layer", {"d/f": b"0"})
    target = tmp_path / "target"
    target.mkdir()
    give_default_acl(target)
    os.chmod(target, 0o2777)
    with MergedTree([LayerTree(source)]) as tree:
        unpack_into(tree, target)
    assert read_tree(target, times=False) == read_tree(source, times=False)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_what_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(self: object, fd: int, name: bytes) -> None:
        raise OSError(code, os.strerror(code))

    source = everything(tmp_path / "layer")
    monkeypatch.setattr("imgpull.store.snapshots.node.Node.link_to", refuse)
    target = made(tmp_path, [LayerTree(source)], link=True)
    assert read_tree(target) == read_tree(source)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_the_kernel_cannot_copy_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    source = everything(tmp_path / "layer")
    (source / "big").write_bytes(os.urandom(3_000_001))
    monkeypatch.setattr(os, "copy_file_range", refuse)
    target = made(tmp_path, [LayerTree(source)], link=False)
    assert read_tree(target) == read_tree(source)


def test_a_copy_that_fails_for_good_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = write_tree(tmp_path / "layer", {"a/f": b"0", "z": b"1"})
    monkeypatch.setattr(os, "copy_file_range", full)
    before = open_descriptors()
    with MergedTree([LayerTree(source)]) as tree, pytest.raises(StoreError, match="no space"):
        unpack_into(tree, tmp_path / "new/target")
    assert not (tmp_path / "new/target").exists()
    (tmp_path / "mine").mkdir()
    with MergedTree([LayerTree(source)]) as tree, pytest.raises(StoreError, match="no space"):
        unpack_into(tree, tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == []
    assert open_descriptors() == before


@needs_root
def test_devices_that_may_not_be_made_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = everything(tmp_path / "layer")
    mknod = os.mknod

    def refuse(path: bytes, mode: int, device: int = 0, *, dir_fd: int | None = None) -> None:
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        mknod(path, mode, device, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mknod", refuse)
    with MergedTree([LayerTree(source)]) as tree:
        assert unpack_into(tree, tmp_path / "target") == [(b"disk",), (b"null",)]
    expected = read_tree(source)
    del expected["disk"], expected["null"]
    assert read_tree(tmp_path / "target") == expected


def test_labels_of_the_host_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_names: list[bytes] = []
    monkeypatch.setattr(os, "setxattr", lambda place, key, value, **_: set_names.append(key))
    monkeypatch.setattr(
        "imgpull.store.snapshots.node.Node.xattrs",
        lambda self: dict.fromkeys((b"security.selinux", b"trusted.overlay.opaque", b"user.kept"), b"1"),
    )
    source = write_tree(tmp_path / "layer", {"f": b"0"})
    made(tmp_path, [LayerTree(source)], link=False)
    assert set(set_names) == {b"user.kept"}


def test_the_target_must_be_empty(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "layer", {"f": b"new"})
    target = write_tree(tmp_path / "target", {"f": b"mine"})
    before = read_tree(target)
    with MergedTree([LayerTree(source)]) as tree, pytest.raises(AlreadyExistsError, match="not empty"):
        unpack_into(tree, target)
    assert read_tree(target) == before


def test_a_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "layer", {"f": b"new"})
    (tmp_path / "file").write_bytes(b"mine")
    with MergedTree([LayerTree(source)]) as tree, pytest.raises(StoreError, match="unpack into"):
        unpack_into(tree, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_two_unpacks_into_one_directory_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tree(tmp_path / "layer", {"f": b"0"})
    inside, go = threading.Event(), threading.Event()

    def slow(*arguments: object, **options: object) -> object:
        inside.set()
        assert go.wait(10)
        return materialise(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "materialise", slow)
    with MergedTree([LayerTree(source)]) as tree:
        first = threading.Thread(target=unpack_into, args=(tree, tmp_path / "target"), name="first-unpack")
        first.start()
        assert inside.wait(10)
        with pytest.raises(AlreadyExistsError, match="being filled"):
            unpack_into(tree, tmp_path / "target")
        go.set()
        first.join(10)
        assert not first.is_alive()
    assert read_tree(tmp_path / "target") == read_tree(source)


def test_a_symlink_in_the_tree_leads_no_write_outside(tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"kept": b"0"})
    lower = write_tree(tmp_path / "0", {"d": str(outside)})
    upper = write_tree(tmp_path / "1", {"d/evil": b"1"})
    before = read_tree(outside)
    target = made(tmp_path, [LayerTree(lower), LayerTree(upper)], link=False)
    assert (target / "d/evil").read_bytes() == b"1"
    assert not (target / "d").is_symlink()
    assert read_tree(outside) == before


def test_a_view_without_layers_is_refused(tmp_path: Path) -> None:
    with MergedTree([]) as tree, pytest.raises(StoreError, match="without layers"):
        unpack_into(tree, tmp_path / "target")


def test_very_deep_trees_with_hard_links(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    deep = "/".join(["d"] * 300)
    write_tree(layer, {f"{deep}/one": b"0"})
    os.makedirs(layer / "/".join(["e"] * 300))
    os.link(layer / deep / "one", layer / "/".join(["e"] * 300) / "two")
    set_times(layer)
    target = made(tmp_path, [LayerTree(layer)], link=False)
    assert read_tree(target) == read_tree(layer)


def both(act: Callable[[Path, bool], object]) -> list[object]:
    found = []
    for link in (False, True):
        with place_of_nobody() as place:
            found.append(as_nobody(lambda place=place, link=link: act(place, link)))  # type: ignore[misc]
    return found


def test_a_user_without_privileges_keeps_modes_that_lock_it_out() -> None:
    def act(place: Path, link: bool) -> object:
        # More directories than descriptors are held, so that some are opened again below one that locks us out.
        many: dict[str, Entry] = {f"no/{number}": None for number in range(150)}
        source = write_tree(place / "layer", {"ro/d/f": b"0", "shadow": b"s", "no/f": b"0", **many})
        for name, mode in (("ro/d", 0o500), ("ro", 0o555), ("shadow", 0o400), ("no", 0o500), ("", 0o555)):
            os.chmod(source / name, mode)
        marks = Journal(modes={(b"shadow",): 0, (b"no",): 0})
        (place / "target").mkdir()
        os.chmod(place / "target", 0o500)
        with MergedTree([LayerTree(source, marks)]) as tree:
            materialise(tree, place / "target", link=link)
        names = ("", "ro", "ro/d", "ro/d/f", "shadow", "no")
        return [oct(stat.S_IMODE(os.lstat(place / "target" / name).st_mode)) for name in names]

    modes = ["0o555", "0o555", "0o500", "0o644", "0o0", "0o0"]
    assert both(act) == [modes, modes]


def test_a_user_without_privileges_can_write_to_what_inherits_from_a_read_only_directory() -> None:
    def act() -> object:
        lower, upper = write_tree(place / "lower", {}), write_tree(place / "upper", {})
        os.chmod(lower, 0o2555)
        with MergedTree([LayerTree(lower)]) as tree:
            root = tree.lookup(())
            assert root is not None
            copying.inherit_directory(root, upper)
        write_tree(upper, {"f": b"0"})
        return oct(stat.S_IMODE(upper.stat().st_mode))

    with place_of_nobody() as place:
        assert as_nobody(act) == "0o2755"


def test_xattrs_that_may_not_be_set_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    source = everything(tmp_path / "layer")
    monkeypatch.setattr(os, "setxattr", refuse)
    target = made(tmp_path, [LayerTree(source)], link=False)
    assert sorted(read_tree(target)) == sorted(read_tree(source))


def test_xattrs_that_fail_for_good_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = write_tree(tmp_path / "layer", {"f": b"0"})
    monkeypatch.setattr("imgpull.store.snapshots.node.Node.xattrs", lambda self: {b"user.a": b"1"})
    monkeypatch.setattr(copying.os, "setxattr", refuse)
    with MergedTree([LayerTree(source)]) as tree, pytest.raises(StoreError, match="no space"):
        unpack_into(tree, tmp_path / "target")
