"""The measuring volume where its commands fail: scripts on PATH instead of mkfs and mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.volume import Volume, VolumeError


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``mount`` fails as often as there are lines in the file ``refusals``."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    refuse = (
        f"if [ -s {folder}/refusals ]; then sed -i 1d {folder}/refusals; echo 'no free loop device' >&2; exit 32; fi"
    )
    for name, body in {"mkfs.ext4": "", "umount": "", "mount": refuse}.items():
        (folder / name).write_text(f"#!/bin/sh\necho {name} >>{folder}/log\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def volume_in(place: Path) -> Volume:
    (place / "mounted").mkdir()
    return Volume(place / "mounted", place / "volume.ext4", 1 << 20)


def test_a_loop_device_that_somebody_else_took_is_asked_for_again(scripts: Path, tmp_path: Path) -> None:
    (scripts / "refusals").write_text("1\n2\n")
    volume_in(tmp_path).wipe()
    assert (scripts / "log").read_text().split() == ["umount", "mkfs.ext4", "mount", "mount", "mount"]


def test_a_mount_that_is_refused_for_good_says_so(scripts: Path, tmp_path: Path) -> None:
    (scripts / "refusals").write_text("no\n" * 100)
    with pytest.raises(VolumeError, match="no free loop device"):
        volume_in(tmp_path).wipe()
    assert (scripts / "log").read_text().split().count("mount") == 10
