"""File systems for tests, mounted where the tests run as root, and what is mounted where."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

_SIZE = "512M"  # sparse
_MOUNT_TRIES = 10
"""mount asks for a free loop device and then takes it; a test beside this one may have taken it in between."""


def mounts_below(place: Path) -> list[str]:
    """Mount points at and below ``place``, as this process sees them, the latest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # proc(5): "36 35 98:0 /root /mount/point rw,noatime …", blanks in names as \040
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point == str(place) or point.startswith(f"{place}/"):
            found.append(point)
    return found[::-1]


def end_mounts(place: Path) -> list[str]:
    """Unmount all at and below ``place``, in use or not; what there was."""
    found = mounts_below(place)
    for point in found:
        _run("umount", point, otherwise=("umount", "-l", point))
    return found


def _tmpfs(scratch: Path, point: Path) -> None:
    _mount("-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(point))


def _ext4(scratch: Path, point: Path) -> None:
    image = scratch / "image"
    subprocess.run(["truncate", "-s", _SIZE, image], check=True)
    _run("mkfs.ext4", "-q", "-F", str(image))
    _mount("-o", "loop", str(image), str(point))


def _overlayfs(scratch: Path, point: Path) -> None:
    # As in a container, but on memory, since what matters is the kind.
    _tmpfs(scratch, scratch)
    for name in ("lower", "upper", "work"):
        (scratch / name).mkdir()
    options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
    _mount("-t", "overlay", "-o", options, "overlay", str(point))


FILESYSTEMS: Mapping[str, Callable[[Path, Path], None]] = {"tmpfs": _tmpfs, "ext4": _ext4, "overlayfs": _overlayfs}


@contextmanager
def mounted(kind: str, scratch: Path) -> Iterator[Path]:
    """An empty file system of this kind; skips where it can't be had. It is gone afterwards, however the tests went."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    below, point = scratch / "below", scratch / "mounted"
    for directory in (below, point):
        directory.mkdir(parents=True)
    try:
        FILESYSTEMS[kind](below, point)
        yield point
    finally:
        end_mounts(scratch)


def _mount(*arguments: str) -> None:
    _run("mount", *arguments, tries=_MOUNT_TRIES)


def _run(*command: str, otherwise: tuple[str, ...] = (), tries: int = 1) -> None:
    try:
        for _ in range(tries):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                return
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    if otherwise:
        _run(*otherwise)
    else:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")
