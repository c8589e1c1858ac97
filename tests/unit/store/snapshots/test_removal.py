"""Removing what an image left: nothing outside is touched, and neither depth nor modes stop it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.trees import as_nobody, open_descriptors, place_of_nobody, read_tree, write_tree
from imgpull.errors import StoreError
from imgpull.store.snapshots import removal
from imgpull.store.snapshots.removal import empty_directory, remove_at, remove_tree


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"kept": b"0", "dir/kept": b"0"})
    before = read_tree(outside)
    tree = write_tree(
        tmp_path / "tree",
        {"a": str(outside), "d/b": str(outside / "dir"), "d/up": "../..", "root": "/", "d/f": "../../outside/kept"},
    )
    os.link(outside / "kept", tree / "hard")
    remove_tree(tree)
    assert not tree.exists()
    assert read_tree(outside) == before


def test_a_link_in_place_of_the_tree_is_removed_itself(tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"kept": b"0"})
    (tmp_path / "tree").symlink_to(outside)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").is_symlink()
    assert (outside / "kept").exists()


def test_every_kind_of_entry_goes(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"f": b"0", "dead": "/nowhere", "d/e/f": b"0", "empty": None})
    os.mkfifo(tree / "d/fifo")
    os.mknod(tree / "socket", stat.S_IFSOCK | 0o600)
    remove_tree(tree)
    assert os.listdir(tmp_path) == []


def test_nothing_there_is_no_error_and_a_missing_parent_neither(tmp_path: Path) -> None:
    remove_tree(tmp_path / "none")
    remove_tree(tmp_path / "none/below")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileNotFoundError):
            remove_at(fd, b"none")
    finally:
        os.close(fd)


def test_emptying_keeps_the_directory(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"a/b": b"0", "c": b"0"})
    inode = tree.stat().st_ino
    fd = os.open(tree, os.O_RDONLY)
    try:
        empty_directory(fd)
    finally:
        os.close(fd)
    assert os.listdir(tree) == []
    assert tree.stat().st_ino == inode


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Where pytest's own clean-up, which recurses, is not left with what a failed test did not remove."""
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path / "tree")], check=True)


@pytest.mark.parametrize("names", [[b"d"], [b"1"], [b"2", b"1", b"x"]])
def test_trees_far_deeper_than_recursion_or_a_path_allow(deep: Path, names: list[bytes]) -> None:
    """``names`` are in each directory: numbers are what the removal itself calls directories it moves up."""
    (deep / "tree").mkdir()
    fd = os.open(deep / "tree", os.O_RDONLY)
    for _ in range(1_500):
        for name in names:
            os.mkdir(name, dir_fd=fd)
        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open(names[0], os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    before = open_descriptors()
    remove_tree(deep / "tree")
    assert os.listdir(deep) == []
    assert open_descriptors() == before


def test_few_descriptors_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_LEVELS", 4)
    most = 0
    unlink_files = removal._unlink_files

    def counting(fd: int) -> list[bytes]:
        nonlocal most
        most = max(most, len(open_descriptors()))
        return unlink_files(fd)

    monkeypatch.setattr(removal, "_unlink_files", counting)
    write_tree(tmp_path / "tree", {"/".join("abcdefghijklmnop") + "/f": b"0", "a/b/c/d/e/1/2/3": b"0"})
    before = len(open_descriptors())
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []
    assert most - before <= 4 + 2


def test_a_user_without_privileges_removes_what_locks_out_its_owner() -> None:
    def act() -> list[str]:
        tree = write_tree(place / "tree", {"no/x/y": b"0", "readonly/f": b"0", "blind/f": b"0", "f": b"0"})
        os.chmod(tree / "f", 0)
        for name, mode in (("no/x", 0), ("no", 0), ("readonly", 0o555), ("blind", 0o333), ("", 0o500)):
            os.chmod(tree / name, mode)
        remove_tree(tree)
        return os.listdir(place)

    with place_of_nobody() as place:
        assert as_nobody(act) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "tree/d/mnt"
    place.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_what_is_mounted_inside_is_left_alone(tmp_path: Path, mounted: Path) -> None:
    (mounted / "kept").write_bytes(b"0")
    with pytest.raises(StoreError, match="unmount"):
        remove_tree(tmp_path / "tree")
    assert (mounted / "kept").read_bytes() == b"0"
