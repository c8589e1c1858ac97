"""A disk that fills up: one line, exit 1, nothing half-committed, and the next pull goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes import images
from fakes.registry import FakeRegistry

from .conftest import Command, Ran

KB = 1000
ROOMY = "size=64M"


@dataclass(frozen=True)
class Disk:
    """A file system of its own, as large as the test says."""

    place: Path

    def leave(self, free_bytes: int) -> None:
        """Shrink it until that much is free."""
        now = os.statvfs(self.place)
        used = (now.f_blocks - now.f_bfree) * now.f_frsize
        self._remount(f"size={used + free_bytes}")

    def enlarge(self) -> None:
        self._remount(ROOMY)

    def _remount(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{size}", self.place], check=True)


@pytest.fixture
def disk(command: Command) -> Iterator[Disk]:
    command.store.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", ROOMY, "tmpfs", command.store]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(command.store)
    finally:
        subprocess.run(["umount", command.store], check=True)


@pytest.fixture
def image() -> images.Image:
    """300 kB of blobs, and 700 kB of files that they become."""
    lower = {"etc/": None, "etc/os-release": "ID=fake\n", "a": images.random_bytes(150 * KB)}
    return images.build([lower, {"b": images.random_bytes(150 * KB), "zeros": b"0" * 400 * KB}])


def assert_refused(ran: Ran) -> None:
    assert (ran.code, ran.out) == (1, "")
    assert "no space left" in ran.error


def listed(command: Command) -> list[str]:
    """The references in ``index.json``, which must be whole."""
    index = json.loads((command.store / "index.json").read_bytes())
    return [manifest["digest"] for manifest in index["manifests"]]


def assert_the_next_pull_finishes(command: Command, reference: str, image: images.Image) -> None:
    left = command.leftovers()
    assert set(left) <= {"ingests"}
    assert listed(command) == []
    assert command("-q", "pull", reference).code == 0
    assert command.leftovers() == {"images": [reference]}
    assert listed(command) == [image.digest]


def test_while_a_blob_arrives(command: Command, disk: Disk, registry: FakeRegistry) -> None:
    image = images.build([{"large": images.random_bytes(2000 * KB)}])
    reference = registry.add(image)
    assert command("images").code == 0
    disk.leave(800 * KB)
    assert_refused(command("-q", "pull", reference))
    partial_bytes = command.partial_bytes()
    assert 0 < partial_bytes < len(image.layers[0].blob)
    disk.enlarge()
    registry.forget()
    assert_the_next_pull_finishes(command, reference, image)
    ranges = [request.headers["range"] for request in registry.seen("GET", image.layers[0].digest)]
    assert ranges == [f"bytes={partial_bytes}-"]


def test_while_a_layer_is_unpacked(command: Command, disk: Disk, registry: FakeRegistry) -> None:
    image = images.build([{"zeros": b"0" * 4000 * KB}])
    reference = registry.add(image)
    assert command("images").code == 0
    disk.leave(800 * KB)
    ran = command("-q", "pull", reference)
    assert_refused(ran)
    assert "'zeros'" in ran.error
    disk.enlarge()
    registry.forget()
    assert_the_next_pull_finishes(command, reference, image)
    assert registry.seen("GET") == []


def test_when_the_database_can_not_be_written(
    command: Command, disk: Disk, registry: FakeRegistry, image: images.Image
) -> None:
    """What the documents take is the file system's to say, so room is given until it is the log that has none."""
    reference = registry.add(image)
    assert command("images").code == 0
    named: list[bool] = []
    for free_kilobytes in range(0, 200, 8):
        disk.leave(free_kilobytes * KB)
        ran = command("-q", "pull", reference)
        assert_refused(ran)
        named.append("metadata.db" in ran.error)
        if named[-1]:
            break
    assert named[-1], "no size left room for the documents and none for the database"
    disk.enlarge()
    assert_the_next_pull_finishes(command, reference, image)


@pytest.mark.parametrize("free_kilobytes", [40, 160])
def test_when_there_is_no_room_for_a_new_store(
    command: Command, disk: Disk, registry: FakeRegistry, image: images.Image, free_kilobytes: int
) -> None:
    reference = registry.add(image)
    disk.leave(free_kilobytes * KB)
    assert_refused(command("-q", "pull", reference))
    disk.enlarge()
    assert command("images").code == 0
    assert_the_next_pull_finishes(command, reference, image)


@pytest.mark.parametrize("free_kilobytes", [80, 320, 600])
def test_wherever_it_fills_up(
    command: Command, disk: Disk, registry: FakeRegistry, image: images.Image, free_kilobytes: int
) -> None:
    reference = registry.add(image)
    assert command("images").code == 0
    disk.leave(free_kilobytes * KB)
    assert_refused(command("-q", "pull", reference))
    disk.enlarge()
    assert_the_next_pull_finishes(command, reference, image)


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "imgpull", "--store", str(tmp_path), "images"]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n"), "internal" in ran.stderr) == (1, 1, False)
