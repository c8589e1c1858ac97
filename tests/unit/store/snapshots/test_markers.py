"""What a layer hides for overlayfs: no whiteout too few, and none that would be seen."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from fakes.layers import at
from fakes.snapshots import ROOT, journal
from fakes.trees import Entry, write_tree
from imgpull.store.snapshots import markers
from imgpull.store.snapshots.layer import LayerTree
from imgpull.store.snapshots.markers import hidden_below, write_markers
from imgpull.store.snapshots.merged import MergedTree

LOWER: dict[str, Entry] = {"f": b"0", "d/x": b"0", "d/e/y": b"0", "d/e/z": b"0", "void": None}


def hidden(
    tmp_path: Path, own: dict[str, Entry], *, gone: tuple[str, ...] = (), opaque: tuple[str, ...] = ()
) -> dict[str, set[str]]:
    lower = LayerTree(write_tree(tmp_path / "lower", LOWER))
    layer = LayerTree(write_tree(tmp_path / "layer", own), journal(gone, opaque))
    with MergedTree([lower]) as below:
        found = hidden_below(layer, below)
    return {os.fsdecode(b"/".join(path)): {os.fsdecode(name) for name in names} for path, names in found.items()}


@pytest.mark.parametrize(
    ("own", "gone", "wanted"),
    [
        ({}, ("f",), {"": {"f"}}),
        ({}, ("d/e/y", "d/x"), {"d": {"x"}, "d/e": {"y"}}),
        ({}, ("d",), {"": {"d"}}),
        ({}, ("d", "d/x", "d/e/y"), {"": {"d"}}),
        ({}, ("none", "none/x", "f/x", "void/x", "d/none/x"), {}),
        ({"f": b"1", "d/x": None}, ("f", "d/x"), {}),
        ({"f": None}, ("f",), {}),
        ({"d": None}, ("d",), {"": {"d"}}),
        ({"d": None}, ("d", "d/x"), {"": {"d"}}),
        ({"d": b"1"}, ("d", "d/x", "d/e/y"), {}),
    ],
)
def test_whiteouts(tmp_path: Path, own: dict[str, Entry], gone: tuple[str, ...], wanted: dict[str, set[str]]) -> None:
    assert hidden(tmp_path, own, gone=gone) == wanted


@pytest.mark.parametrize(
    ("own", "opaque", "gone", "wanted"),
    [
        ({"d/new": b"1"}, ("d",), (), {"": {"d"}}),
        ({"d/e": None}, ("d/e",), ("d/x",), {"d": {"e", "x"}}),
        ({}, ("d/e",), (), {"d/e": {"y", "z"}}),
        ({}, ("d",), ("d/x", "d/e/y"), {"d": {"x", "e"}}),
        ({}, ("void",), (), {}),
        ({}, ("none", "f"), (), {}),
        ({"d": b"1"}, ("d", "d/e"), (), {}),
    ],
)
def test_opaque_directories(
    tmp_path: Path, own: dict[str, Entry], opaque: tuple[str, ...], gone: tuple[str, ...], wanted: dict[str, set[str]]
) -> None:
    assert hidden(tmp_path, own, gone=gone, opaque=opaque) == wanted


@pytest.mark.skipif(not ROOT, reason="giving directories away needs root")
@pytest.mark.parametrize("links", [True, False])
def test_markers_are_whiteouts_in_directories_as_they_are_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def too_many(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    lower = write_tree(tmp_path / "lower", LOWER)
    os.chown(lower / "d/e", 3, 4)
    os.chmod(lower / "d/e", 0o2751)
    os.utime(lower / "d/e", ns=(5, 7))
    if not links:
        monkeypatch.setattr(markers.os, "link", too_many)
    with MergedTree([LayerTree(lower)]) as below:
        write_markers({at("d/e"): {b"y", b"z"}, (): {b"f"}}, below, tmp_path / "made", tmp_path / "whiteout")
    made = tmp_path / "made"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*")) == ["d", "d/e", "d/e/y", "d/e/z", "f"]
    whiteouts = [os.lstat(made / name) for name in ("f", "d/e/y", "d/e/z")]
    assert all(stat.S_ISCHR(status.st_mode) and status.st_rdev == 0 for status in whiteouts)
    assert len({status.st_ino for status in whiteouts}) == (1 if links else 3)
    status = os.stat(made / "d/e")
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (3, 4, 7)
    assert stat.S_IMODE(status.st_mode) == 0o2751
