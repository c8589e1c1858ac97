"""The directory of views: which form is taken, and that nothing stays of one that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.trees import open_descriptors, read_tree, write_tree
from imgpull.errors import StoreError, StoreFullError
from imgpull.store.snapshots import mounting, overlay
from imgpull.store.snapshots.layer import LayerTree
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.views import ViewForm, Views


class Form:
    """Does what it is told, and counts."""

    def __init__(self, act: Callable[[Path], bool]) -> None:
        self.act = act
        self.places: list[Path] = []

    def make(self, tree: MergedTree, place: Path) -> bool:
        self.places.append(place)
        return self.act(place)


def layer(tmp_path: Path) -> LayerTree:
    return LayerTree(write_tree(tmp_path / "layer", {"d/f": b"0"}))


def views(tmp_path: Path, *forms: ViewForm, read_only: bool = False) -> Views:
    made = Views(tmp_path / "views", forms or None, read_only=read_only)
    if not read_only:
        made.prepare()
    return made


def test_the_first_form_that_can_is_taken(tmp_path: Path) -> None:
    cannot, can, spare = Form(lambda place: False), Form(lambda place: True), Form(lambda place: True)
    with MergedTree([layer(tmp_path)]) as tree, contextlib.ExitStack() as closing:
        path = views(tmp_path, cannot, can, spare).make(tree, closing)
        assert [path.parent] == cannot.places == can.places
        assert spare.places == []
        assert path.parent.parent == tmp_path / "views"
    assert os.listdir(tmp_path / "views") == []


def test_a_form_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def full(place: Path) -> bool:
        (place / "rootfs/half").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    before = open_descriptors()
    with MergedTree([layer(tmp_path)]) as tree, contextlib.ExitStack() as closing:
        with pytest.raises(StoreFullError):
            views(tmp_path, Form(full)).make(tree, closing)
        with pytest.raises(StoreError, match="in any form asked for"):
            views(tmp_path, Form(lambda place: False)).make(tree, closing)
        assert os.listdir(tmp_path / "views") == []
    assert open_descriptors() == before


def test_whether_to_mount_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def may_mount() -> bool:
        asked.append("may we?")
        return False

    monkeypatch.setattr(overlay, "may_mount", may_mount)
    by_default = views(tmp_path)
    with MergedTree([layer(tmp_path)]) as tree, contextlib.ExitStack() as closing:
        for _ in range(3):
            path = by_default.make(tree, closing)
            assert (path / "d/f").samefile(tmp_path / "layer/d/f")
    assert len(asked) == 1


def test_a_read_only_store_is_not_linked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "may_mount", lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with MergedTree([layer(tmp_path)]) as tree, contextlib.ExitStack() as closing:
        path = views(tmp_path, read_only=True).make(tree, closing)
        assert path.parent.parent == tmp_path / f"imgpull-views-{os.geteuid()}"
        assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
        assert read_tree(path) == read_tree(tmp_path / "layer")
        assert not (path / "d/f").samefile(tmp_path / "layer/d/f")
    assert not path.parent.exists()


def test_what_a_dead_process_left_of_a_read_only_store_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    can = Form(lambda place: True)
    with MergedTree([layer(tmp_path)]) as tree, contextlib.ExitStack() as closing, contextlib.ExitStack() as other:
        alive = views(tmp_path, can, read_only=True).make(tree, closing)
        left = alive.parent.parent / "left by the dead"
        (left / "rootfs").mkdir(parents=True)
        views(tmp_path, can, read_only=True).make(tree, other)
        assert alive.exists() and not left.exists()


def test_a_directory_that_others_may_write_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root = tmp_path / f"imgpull-views-{os.geteuid()}"
    with MergedTree([layer(tmp_path)]) as tree, contextlib.ExitStack() as closing:
        made = views(tmp_path, Form(lambda place: True), read_only=True)
        root.symlink_to("elsewhere")
        with pytest.raises(StoreError, match="of this user alone"):
            made.make(tree, closing)
        root.unlink()
        root.mkdir()
        root.chmod(0o770)
        with pytest.raises(StoreError, match="of this user alone"):
            made.make(tree, closing)
        if os.geteuid() == 0:
            root.chmod(0o700)
            os.chown(root, 1, 1)
            with pytest.raises(StoreError, match="of this user alone"):
                made.make(tree, closing)


def test_may_mount_tells_nothing_of_a_kernel_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(code: int) -> Callable[..., int]:
        def call(*args: object) -> int:
            raise OSError(code, os.strerror(code))

        return call

    for code, may in ((errno.ENOSYS, True), (errno.EPERM, False), (errno.ENODEV, False)):
        monkeypatch.setattr(mounting, "_call", answer(code))
        assert mounting.may_mount() is may
    monkeypatch.setattr(mounting.sys, "platform", "darwin")
    assert mounting.may_mount() is False
