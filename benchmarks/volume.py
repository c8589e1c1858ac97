"""Where stores lie while they are measured: a journalled file system, made empty before each run.

On a file system without a journal, creating files within minutes of deleting many is ten to twenty times slower
(measured on this project's machines), which would be charged to whichever arm comes second. So, where root may, a
sparse file is made into ext4 and mounted by loop; emptying it is a new ``mkfs``. Elsewhere a folder of the temporary
directory is used, and the description says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Volume", "VolumeError", "drop_caches", "filesystem_of", "measuring_volume"]

_GIB = 1 << 30
_LARGEST_BYTES = 64 * _GIB
"""Twenty unsuppressed pulls of golang unpack 18 GB; the file is sparse, so only what is written counts."""
_SMALLEST_BYTES = 2 * _GIB


_MOUNT_TRIES = 10
"""mount asks for a free loop device and then takes it; whoever else mounts may have taken it in between."""


class VolumeError(Exception):
    """The volume can't be made, mounted or unmounted; the message is the command's own."""


class Volume:
    """A place for one store at a time."""

    def __init__(self, directory: Path, image: Path | None, size_bytes: int) -> None:
        self._directory = directory
        self._image = image
        self._size_bytes = size_bytes
        if image is None:
            self.description = f"{filesystem_of(directory)} in the temporary directory (no loop mount to be had)"
        else:
            self.description = "ext4, noatime, in a sparse file mounted by loop"

    @property
    def store(self) -> Path:
        return self._directory / "store"

    def wipe(self) -> Path:
        """Empties the volume, waits until the disk has taken it, and returns where the next store goes."""
        _unmount_below(self._directory)
        if self._image is None:
            shutil.rmtree(self.store, ignore_errors=True)
        else:
            _unmount(self._directory)
            _mount_new(self._image, self._directory, self._size_bytes)
        os.sync()
        return self.store


@contextlib.contextmanager
def measuring_volume() -> Iterator[Volume]:
    """The best volume this machine allows, gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="imgpull-volume-", ignore_cleanup_errors=True) as folder:
        directory = Path(folder) / "mounted"
        directory.mkdir()
        image = Path(folder) / "volume.ext4"
        size_bytes = min(_LARGEST_BYTES, shutil.disk_usage(folder).free // 10 * 6)
        if size_bytes < _SMALLEST_BYTES or not _may_mount():
            yield Volume(directory, None, 0)
            return
        try:
            _mount_new(image, directory, size_bytes)
        except (OSError, VolumeError):
            image.unlink(missing_ok=True)
            yield Volume(directory, None, 0)
            return
        try:
            yield Volume(directory, image, size_bytes)
        finally:
            _unmount_below(directory)
            if os.path.ismount(directory):  # not after a wipe that failed half-way
                _unmount(directory)


def filesystem_of(path: Path) -> str:
    """The type of the file system ``path`` lies on, as the mount table names it; ``unknown`` where there is none."""
    resolved = str(path.resolve())
    best, kind = "", "unknown"
    for point, found in _mounts():
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def drop_caches() -> bool:
    """Empties the page cache, as the script of containerd's issue does between its runs; False where only root may and
    we are not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def _mounts() -> list[tuple[str, str]]:
    """Mount points and types, oldest first; none where the kernel keeps no such table."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [(fields[1], fields[2]) for line in lines if len(fields := line.split(" ")) > 2]


def _unmount_below(directory: Path) -> None:
    """Takes away what a peer left mounted (podman mounts its store onto itself)."""
    for point, _ in reversed(_mounts()):
        if point.startswith(f"{directory.resolve()}/"):
            _unmount(Path(point))


def _may_mount() -> bool:
    tools = all(shutil.which(tool) for tool in ("mkfs.ext4", "mount", "umount"))
    return sys.platform == "linux" and os.geteuid() == 0 and tools


def _mount_new(image: Path, directory: Path, size_bytes: int) -> None:
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", str(image))
    # noinit_itable: no kernel thread that fills inode tables while somebody is being measured
    for left in reversed(range(_MOUNT_TRIES)):
        try:
            _run("mount", "-o", "loop,noatime,noinit_itable", str(image), str(directory))
            return
        except VolumeError:
            if not left:
                raise


def _unmount(directory: Path) -> None:
    try:
        _run("umount", str(directory))
    except VolumeError:
        _run("umount", "--lazy", str(directory))


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise VolumeError(" ".join(done.stderr.split()) or f"{command[0]} ended with status {done.returncode}")
