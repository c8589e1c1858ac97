"""File systems of tests: made and mounted where root may, and the test is skipped where not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXT4_BYTES = 512 << 20
MOUNT_TRIES = 10
"""mount asks for a free loop device and then takes it; a test beside this one may have taken it in between."""


@contextmanager
def mounted(kind: str, place: Path) -> Iterator[Path]:
    """A directory on a new file system, ``ext4`` ``tmpfs`` or ``overlayfs``, with ``place`` for what lies under it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    point = place / "mounted"
    for name in ("mounted", "lower", "upper", "work"):
        (place / name).mkdir(parents=True)
    image = place / "volume.ext4"
    commands = {
        "ext4": [["mkfs.ext4", "-q", "-F", str(image)], ["mount", "-o", "loop,noatime", str(image), str(point)]],
        "tmpfs": [["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(point)]],
        "overlayfs": [
            ["mount", "-t", "overlay", "-o", f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"]
            + ["overlay", str(point)]
        ],
    }
    if kind == "ext4":
        with image.open("wb") as file:
            file.truncate(EXT4_BYTES)
    for command in commands[kind]:
        _run_or_skip(kind, command)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, capture_output=True, timeout=60)


def _run_or_skip(kind: str, command: list[str]) -> None:
    for left in reversed(range(MOUNT_TRIES)):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            return
        except FileNotFoundError:
            pytest.skip(f"no {kind} here: {command[0]} is not on PATH")
        except subprocess.CalledProcessError as error:
            if not left:
                pytest.skip(f"no {kind} here: {error.stderr.decode(errors='replace').strip()}")
