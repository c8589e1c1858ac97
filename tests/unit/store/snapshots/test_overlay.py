"""Overlay mounts of real layers: as many as the kernel takes, in each way it takes them, and nothing that leads out."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.filesystems import end_mounts, mounted, mounts_below
from fakes.layers import random_layer
from fakes.snapshots import journal, walked
from fakes.trees import Entry, open_descriptors, read_tree, set_times, write_tree
from imgpull.store.snapshots import mounting, overlay
from imgpull.store.snapshots.layer import Journal, LayerTree
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.mounting import unmount
from imgpull.store.snapshots.overlay import Mounted, stacked


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted("tmpfs", tmp_path_factory.mktemp("memory")) as point:
        yield point


@pytest.fixture
def place(memory: Path, tmp_path: Path) -> Iterator[Path]:
    made = memory / tmp_path.name
    made.mkdir()
    before = open_descriptors()
    yield made
    left = end_mounts(made)
    assert open_descriptors() == before
    assert left == [], "left mounted"


def shown(layers: list[LayerTree], place: Path) -> dict[str, tuple[object, ...]] | None:
    """What a mount of these layers shows; None where it can't be made."""
    rootfs = place / "view/rootfs"
    rootfs.mkdir(parents=True)
    with MergedTree(layers) as tree:
        try:
            return read_tree(rootfs) if Mounted().make(tree, place / "view") else None
        finally:
            unmount(rootfs)
            assert mounts_below(place) == []


def many(place: Path, count: int, *, gone: bool = False) -> list[LayerTree]:
    """Each layer adds a file, and with ``gone`` takes away that of the layer below."""
    layers = []
    for number in range(count):
        entries: dict[str, Entry] = {f"d/{number}": b"x", "last": str(number).encode()}
        marks = journal((f"d/{number - 1}",)) if gone and number else Journal()
        layers.append(LayerTree(write_tree(place / f"layers/{number}", entries), marks))
    return layers


def same(layers: list[LayerTree], place: Path) -> bool:
    with MergedTree(layers) as tree:
        return shown(layers, place) == walked(tree)


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has no ``lowerdir+``."""

    def unknown(*args: object) -> None:
        raise OSError(errno.EINVAL, "overlay: Unknown parameter 'lowerdir+'")

    monkeypatch.setattr(mounting, "_configured", unknown)


@pytest.mark.parametrize("count", [1, 2, 128, 500])
def test_as_many_layers_as_the_kernel_stacks(place: Path, count: int) -> None:
    assert same(many(place, count), place)


@pytest.mark.parametrize("count", [1, 2, 128])
def test_layers_that_hide_something(place: Path, count: int) -> None:
    assert same(many(place, count, gone=True), place)


@pytest.mark.parametrize(("count", "gone"), [(501, False), (251, True)])
def test_more_than_that_are_not_mounted(place: Path, count: int, gone: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert shown(many(place, count, gone=gone), place) is None
    assert "the kernel stacks 500 directories, not 501" in caplog.text


@pytest.mark.usefixtures("old_kernel")
def test_on_an_older_kernel(place: Path) -> None:
    assert same(many(place, 128), place)


@pytest.mark.usefixtures("old_kernel")
def test_more_layers_than_a_page_of_options_holds(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert shown(many(place, 300), place) is None
    assert "more than a page of options holds" in caplog.text


STRANGE = "caf\udce9:a,b\\c=d"
"""No UTF-8, and what separates options and directories."""


def test_paths_are_taken_as_they_are(place: Path) -> None:
    assert same(many(place / STRANGE, 3, gone=True), place / STRANGE)


@pytest.mark.usefixtures("old_kernel")
def test_paths_are_taken_as_they_are_by_an_older_kernel(place: Path) -> None:
    assert same(many(place / STRANGE, 3, gone=True), place / STRANGE)


def test_paths_longer_than_the_kernel_takes(place: Path) -> None:
    deep = place / ("d" * 200) / ("e" * 200)
    assert same(many(deep, 40, gone=True), place)


def test_without_permission_it_is_tried_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def refused(*args: object) -> None:
        tried.append(args)
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(overlay, "mount_overlay", refused)
    form = Mounted()
    with MergedTree(many(place, 2)) as tree:
        for name in ("1", "2"):
            (place / name).mkdir()
            assert not form.make(tree, place / name)
    assert len(tried) == 1


def test_what_fails_for_one_view_is_tried_for_the_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(many(place, 501), place) is None
    form = Mounted()
    with MergedTree(many(place / "more", 501)) as tree, MergedTree(many(place / "few", 2)) as small:
        (place / "view2/rootfs").mkdir(parents=True)
        assert not form.make(tree, place / "view2")
        assert form.make(small, place / "view2")
        unmount(place / "view2/rootfs")


def test_a_mode_that_only_the_journal_knows_is_not_mounted(place: Path) -> None:
    layers = [*many(place, 2), LayerTree(write_tree(place / "top", {"f": b"0"}), Journal(modes={(b"f",): 0}))]
    assert shown(layers, place) is None


def test_below_an_opaque_root_nothing_is_stacked(place: Path) -> None:
    layers = [*many(place, 3), LayerTree(write_tree(place / "top", {"f": b"0"}), journal(opaque=("",)))]
    assert stacked(layers, place) == [str(place / "top"), str(place / "empty")]
    assert shown(layers, place) == read_tree(place / "top")


def test_a_directory_that_would_take_too_many_markers_is_not_mounted(
    place: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "MOST_MARKERS", 10)
    caplog.set_level("INFO")
    base = LayerTree(write_tree(place / "base", {f"{name}/{number}": b"" for name in "de" for number in range(5)}))
    void = [LayerTree(write_tree(place / f"void-{name}", {}), journal(opaque=(name,))) for name in "de"]
    assert same([base, *void], place)
    more = LayerTree(write_tree(place / "more", {"f": b""}))
    last = LayerTree(write_tree(place / "last", {}), journal(gone=("f",)))
    assert shown([base, *void, more, last], place / "again") is None
    assert "names to hide" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
def test_what_is_wrong_with_the_disk_is_not_taken_for_want_of_whiteouts(
    place: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(overlay, "write_markers", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        shown(many(place, 2, gone=True), place)


def test_an_attribute_in_a_layer_does_not_redirect(place: Path) -> None:
    lower = write_tree(place / "lower", {"secret/f": b"0"})
    upper = write_tree(place / "upper", {"d": None})
    os.chmod(lower / "secret", 0o700)
    os.setxattr(upper / "d", "trusted.overlay.redirect", b"/secret")
    (place / "view/rootfs").mkdir(parents=True)
    with MergedTree([LayerTree(lower), LayerTree(upper)]) as tree:
        assert Mounted().make(tree, place / "view")
        try:
            with pytest.raises(OSError):
                os.stat(place / "view/rootfs/d/f")
        finally:
            unmount(place / "view/rootfs")


@pytest.mark.parametrize("seed", range(80))
def test_a_mount_shows_what_the_merged_view_does(place: Path, seed: int) -> None:
    chosen = random.Random(seed)
    layers: list[LayerTree] = []
    for number in range(chosen.randrange(2, 7)):
        entries, marks = random_layer(chosen)
        root = write_tree(place / f"layers/{number}", entries)
        for path in sorted(root.rglob("*")):
            os.chown(path, chosen.randrange(9), chosen.randrange(9))
            os.chmod(path, chosen.randrange(0o10000))
            if path.is_dir():
                os.setxattr(path, "trusted.layer", str(number).encode())
        set_times(root)
        layers.append(LayerTree(root, marks))
    assert same(layers, place)


def test_all_that_is_mounted_on_a_directory_is_taken_away_even_in_use(place: Path) -> None:
    layers = many(place, 2)
    rootfs = place / "view/rootfs"
    rootfs.mkdir(parents=True)
    with MergedTree(layers) as tree:
        for _ in range(2):
            assert Mounted().make(tree, place / "view")
    assert len(mounts_below(place)) == 2
    with (rootfs / "last").open("rb") as file:
        unmount(rootfs)
        assert mounts_below(place) == []
        assert file.read() == b"1"
    assert os.listdir(rootfs) == []
    unmount(rootfs)
    unmount(place / "nothing/there")
