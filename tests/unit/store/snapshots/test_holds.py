"""Holds: who uses a directory keeps it, and what a dead process left is told from what is in use."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from fakes.trees import open_descriptors, write_tree
from imgpull.store.snapshots.holds import Hold, make_private, remove_dead


def test_shared_holds_go_together_and_exclude_an_exclusive_one(tmp_path: Path) -> None:
    one = Hold.take(tmp_path, exclusive=False)
    other = Hold.take(tmp_path, exclusive=False)
    assert one is not None and other is not None
    assert Hold.take(tmp_path, exclusive=True) is None
    one.release()
    one.release()
    assert Hold.take(tmp_path, exclusive=True) is None
    other.release()
    alone = Hold.take(tmp_path, exclusive=True)
    assert alone is not None
    assert Hold.take(tmp_path, exclusive=True) is None
    alone.release()


def test_a_shared_hold_waits_for_an_exclusive_one_to_end(tmp_path: Path) -> None:
    alone = Hold.take(tmp_path, exclusive=True)
    assert alone is not None
    got: list[Hold | None] = []
    waiting = threading.Thread(target=lambda: got.append(Hold.take(tmp_path, exclusive=False)), name="waits")
    waiting.start()
    assert got == []
    alone.release()
    waiting.join(10)
    assert not waiting.is_alive()
    assert got[0] is not None
    got[0].release()


def test_a_directory_that_was_replaced_meanwhile_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_tree(tmp_path / "place", {})
    lock = Hold._lock

    def replaced_before(self: Hold, exclusive: bool) -> bool:
        place.rename(tmp_path / "gone")
        place.mkdir()
        return lock(self, exclusive)

    monkeypatch.setattr(Hold, "_lock", replaced_before)
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        Hold.take(place, exclusive=True)
    assert open_descriptors() == before


def test_only_what_nobody_holds_is_dead(tmp_path: Path) -> None:
    with make_private(tmp_path) as hold:
        write_tree(hold.path, {"x": b"0"})
        write_tree(tmp_path / "dead", {"x/y": b"0"})
        remove_dead(tmp_path)
        assert list(tmp_path.iterdir()) == [hold.path]
        assert (hold.path / "x").exists()
    remove_dead(tmp_path)
    assert list(tmp_path.iterdir()) == []
    remove_dead(tmp_path / "none")


def test_private_means_private_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o777)
    try:
        with make_private(tmp_path) as hold:
            assert hold.path.stat().st_mode & 0o7777 == 0o700
    finally:
        os.umask(previous)


def test_a_private_directory_swept_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Hold._lock
    swept: list[Path] = []

    def swept_before(self: Hold, exclusive: bool) -> bool:
        if not swept:
            swept.append(self.path)
            remove_dead(tmp_path)
        return lock(self, exclusive)

    monkeypatch.setattr(Hold, "_lock", swept_before)
    with make_private(tmp_path) as hold:
        assert hold.path.is_dir()
        assert hold.path != swept[0]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            make_private(tmp_path)
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reading, 1) == b"x"
        remove_dead(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    remove_dead(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_keep_what_its_parent_lets_go(tmp_path: Path) -> None:
    hold = Hold.take(tmp_path, exclusive=True)
    assert hold is not None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0)
    hold.release()
    try:
        again = Hold.take(tmp_path, exclusive=True)
        assert again is not None
        again.release()
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
