"""Snapshots for tests: opened on some file system, written as an applier does it, and seen in every way there is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from fakes.trees import Entry, grouped, write_tree
from imgpull.oci import Digest
from imgpull.store.snapshots import Journal, MergedTree, Rootfs, Snapshots
from imgpull.store.snapshots.overlay import Mounted
from imgpull.store.snapshots.views import Materialised, ViewForm

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Kind:
    """Where a store lies, and in what form its views have a path."""

    filesystem: str | None
    """One of ``FILESYSTEMS``, or None for what pytest's own directory lies on."""
    forms: Callable[[], Sequence[ViewForm] | None]
    mounts: bool = False
    """Whether every view is a mount here, whatever it hides."""


def _materialised() -> Sequence[ViewForm]:
    return [Materialised(link=True)]


def _mounted() -> Sequence[ViewForm]:
    """No second one: a view that can't be mounted fails its test."""
    return [Mounted()]


def _by_default() -> None:
    return None


KINDS = {
    "default": Kind(None, _by_default),
    "ext4-mounted": Kind("ext4", _mounted, mounts=True),
    "ext4-materialised": Kind("ext4", _materialised),
    "tmpfs-mounted": Kind("tmpfs", _mounted, mounts=True),
    "tmpfs-materialised": Kind("tmpfs", _materialised),
    # Overlayfs takes no whiteouts of others', so some of its views are mounts and some are not.
    "overlayfs-default": Kind("overlayfs", _by_default),
    "overlayfs-materialised": Kind("overlayfs", _materialised),
}


class Opener(Protocol):
    """Opens the snapshots of the test's own store, as another process would."""

    def __call__(self, *, durable: bool = False, read_only: bool = False) -> Snapshots: ...


def chain(text: str) -> str:
    return Digest.of_bytes(text.encode())


def directory_of(place: Path, name: str) -> Path:
    """Where a committed snapshot lies."""
    return place / "snapshots" / name.replace(":", "/")


def commit(
    snapshots: Snapshots,
    name: str,
    entries: Mapping[str, Entry],
    parent: str | None = None,
    *,
    gone: tuple[str, ...] = (),
    opaque: tuple[str, ...] = (),
    change: Callable[[Path], object] = lambda tree: None,
) -> str:
    """A layer ``name`` on ``parent``: these entries, changed by ``change``, and ``gone`` no longer there."""
    active = snapshots.prepare(f"writing {name}", parent)
    write_tree(active.path, entries)
    change(active.path)
    return snapshots.commit(chain(name), active.key, journal=journal(gone, opaque)).name


def journal(gone: tuple[str, ...] = (), opaque: tuple[str, ...] = ()) -> Journal:
    made = Journal()
    for path in gone:
        *directory, last = os.fsencode(path).split(b"/")
        made.whiteout(tuple(directory), last)
    made.opaques.update(tuple(os.fsencode(path).split(b"/")) if path else () for path in opaque)
    return made


def seen(snapshots: Snapshots, name: str) -> dict[str, bytes | None]:
    """What a view shows: files with their content, directories as None. Its path must show the same."""
    with snapshots.view(name) as rootfs:
        found = _read(rootfs)
        assert _shown(rootfs.path) == found
    return found


def _read(rootfs: Rootfs) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for path, directories, files in rootfs.walk(""):
        found |= {os.path.join(path, directory): None for directory in directories}
        found |= {os.path.join(path, file): rootfs.read_bytes(os.path.join(path, file)) for file in files}
    return found


def _shown(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def walked(tree: MergedTree) -> dict[str, tuple[object, ...]]:
    """The merged view as :func:`fakes.trees.read_tree` would give it."""
    found: dict[str, tuple[object, ...]] = {}
    for node in tree.walk():
        status = node.stat
        content: object = None
        if node.is_regular:
            with open(node.open(), "rb") as file:
                content = file.read()
        elif node.is_symlink:
            content = os.fsdecode(node.readlink())
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            content = status.st_rdev
        inode = None if node.is_directory else (node.layer, status.st_ino)
        xattrs = {os.fsdecode(key): value for key, value in sorted(node.xattrs().items())}
        mode = stat.filemode(status.st_mode)
        entry = (mode, status.st_uid, status.st_gid, content, xattrs, status.st_mtime_ns, inode)
        found[os.fsdecode(b"/".join(node.path))] = entry
    return grouped(found)
