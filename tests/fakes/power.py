"""A file system whose power can be cut, and work on a store on it that says what it has committed.

What is committed follows from its name, so whoever reads the store afterwards needs nothing but names to know what
must be in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pytest

from fakes.scripts import ROOT
from fakes.threads import start, until
from fakes.trees import write_tree
from imgpull.errors import ImgpullError
from imgpull.oci import Digest
from imgpull.store import Store
from imgpull.store.durability import Durability
from imgpull.store.snapshots import Rootfs

__all__ = ["Disk", "Work", "Worker", "damages", "loop_disk", "work"]

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32), <linux/fs.h> FS_IOC_SHUTDOWN since 6.16."""
_NO_LOG_FLUSH = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH: what the journal has not written yet is lost, as in a power cut."""


class Disk:
    """An ext4 in a file, mounted."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "disk"
        self.root = directory / "mounted"
        self.root.mkdir()
        with self._image.open("wb") as file:
            file.truncate(512 << 20)
        _run("mkfs.ext4", "-q", "-F", str(self._image))

    def mount(self) -> None:
        _run("mount", "-o", "loop,noatime", str(self._image), str(self.root))

    def unmount(self) -> None:
        _run("umount", str(self.root))
        # A mount namespace that somebody else has made meanwhile has the file system too, shut down as it is.
        until(lambda: not _run("losetup", "-j", str(self._image)), "the file system is let go everywhere")

    def flush_journal(self) -> None:
        """Names and sizes reach the disk; data that has no place there yet does not."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def cut(self) -> None:
        """Nothing that is written from here on counts, nor what was not made durable before."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)


@contextlib.contextmanager
def loop_disk(directory: Path) -> Iterator[Disk]:
    """A disk, mounted; skips the test where this machine does not let us have one."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing (Debian: e2fsprogs)")
    disk = Disk(directory)
    try:
        disk.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"loop devices can't be mounted here: {error.stderr}")
    try:
        yield disk
    finally:
        disk.unmount()


class Work:
    """What is being done on one store."""

    def __init__(self, said: IO[str]) -> None:
        self.committed: list[str] = []
        """``blob NAME`` or ``snapshot NAME`` for each commit that has returned."""
        self._said = said
        self._reading = start(self._read, "reading what was committed")

    def _read(self) -> None:
        while (line := self._said.readline().strip()) != "ended":
            assert line, "the process that works on the store died"
            self.committed.append(line)

    def wait(self) -> None:
        """Until it ends."""
        self._reading.outcome()


class Worker:
    """A process that works on stores, one after another. Forked anew for each, so that none begins with imports."""

    def __init__(self) -> None:
        program = "from fakes import power; power.serve()"
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def begin(self, root: Path, durability: Durability, label: str, count: int) -> Work:
        """Let it do :func:`work`."""
        print(root, durability, label, count, file=_open(self._process.stdin), flush=True)
        return Work(_open(self._process.stdout))

    def close(self) -> None:
        _open(self._process.stdin).close()
        assert self._process.wait() == 0
        _open(self._process.stdout).close()


def serve() -> None:
    for line in sys.stdin:
        root, durability, label, count = line.split()
        child = os.fork()
        if child == 0:
            work(Path(root), "full" if durability == "full" else "none", label, int(count))
            os._exit(0)
        os.waitpid(child, 0)
        _say("ended")


def work(root: Path, durability: Durability, label: str, count: int) -> None:
    """Commit ``count`` blobs and snapshots in each of three threads; stop at the first error. Each is said once its
    commit has returned."""
    with contextlib.suppress(ImgpullError), Store(root, durability=durability) as store:
        threads = [
            threading.Thread(target=_commit_some, args=(store, f"{label}-{number}", count)) for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def damages(root: Path, committed: Iterable[str]) -> list[str]:
    """How the store differs from what it must hold: all that was committed, and nothing that is not whole."""
    wanted = {kind: {name for what, name in map(str.split, committed) if what == kind} for kind in ("blob", "snapshot")}
    found: list[str] = []
    try:
        with Store(root) as store:
            found += _compare_blobs(store, wanted["blob"])
            found += _compare_snapshots(store, wanted["snapshot"])
    except ImgpullError as error:
        found.append(f"the store can't be opened: {error}")
    return found


def _compare_blobs(store: Store, wanted: set[str]) -> Iterator[str]:
    here = {info.digest: info for info in store.content.walk()}
    for digest in here:
        with store.content.open(digest) as file:
            if Digest.of_bytes(file.readall()) != digest:
                yield f"the blob {digest} has other bytes"
    for name in wanted:
        info = here.get(_digest(name))
        if info is None:
            yield f"the blob {name} is lost"
        elif info.labels.get("name") != name:
            yield f"the labels of the blob {name} are lost"


def _compare_snapshots(store: Store, wanted: set[str]) -> Iterator[str]:
    here = {info.labels.get("name", "") for info in store.snapshots.walk() if info.kind == "committed"}
    for name in here:
        try:
            _compare_tree(store, name)
        except (ImgpullError, AssertionError, OSError) as error:
            yield f"the snapshot {name}: {error}"
    yield from (f"the snapshot {name} is lost" for name in wanted - here)


def _compare_tree(store: Store, name: str) -> None:
    with store.snapshots.view(_chain(name)) as rootfs:
        wanted = {path: data for past in _ancestry(name) for path, data in _tree(past).items()}
        assert _read(rootfs) == wanted, "other files than were committed"


def _read(rootfs: Rootfs) -> dict[str, bytes]:
    return {
        os.path.join(directory, file): rootfs.read_bytes(os.path.join(directory, file))
        for directory, _, files in rootfs.walk("")
        for file in files
    }


def _commit_some(store: Store, label: str, count: int) -> None:
    with contextlib.suppress(ImgpullError, OSError):
        for number in range(count):
            _commit(store, f"{label}-{number}")


def _commit(store: Store, name: str) -> None:
    with store.content.writer(name, expected=_digest(name)) as writer:
        writer.write(_blob(name))
        writer.commit(labels={"name": name})
    _say(f"blob {name}")
    *_, parent = (None, *_ancestry(name)[:-1])
    active = store.snapshots.prepare(name, parent and _chain(parent), target=_chain(name), labels={"name": name})
    write_tree(active.path, _tree(name))
    store.snapshots.commit(_chain(name), name)
    _say(f"snapshot {name}")


def _ancestry(name: str) -> list[str]:
    """The snapshots below ``label-thread-5``: ``…-0`` to ``…-5``, the bottom first; chains begin anew at each 10th."""
    label, _, number = name.rpartition("-")
    return [f"{label}-{below}" for below in range(int(number) // 10 * 10, int(number) + 1)]


def _blob(name: str) -> bytes:
    rng = random.Random(name)
    return rng.randbytes(rng.randrange(128 << 10))


def _digest(name: str) -> Digest:
    return Digest.of_bytes(_blob(name))


def _chain(name: str) -> Digest:
    return Digest.of_bytes(f"chain of {name}".encode())


def _tree(name: str) -> dict[str, bytes]:
    rng = random.Random(f"tree of {name}")
    return {f"{name}/{rng.randrange(4)}/{file}": rng.randbytes(rng.randrange(24 << 10)) for file in range(6)}


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one call: lines of several threads don't mix


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
