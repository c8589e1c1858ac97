"""Views as ordinary directories, for tools that know nothing else: made in ``views/``, and gone with the view.

Each has a private, held directory, ``views/<random>/{rootfs, …}``. What a dead process left there is found at the next
open by its hold, and its mount ended before anything is removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from imgpull.errors import StoreError
from imgpull.store.filesystem import make_directory, translated
from imgpull.store.snapshots.holds import make_private, remove_dead
from imgpull.store.snapshots.materialise import materialise
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.mounting import unmount
from imgpull.store.snapshots.overlay import Mounted
from imgpull.store.snapshots.removal import remove_tree

__all__ = ["Materialised", "ViewForm", "Views"]

_log = logging.getLogger("imgpull.store.snapshots")


class ViewForm(Protocol):
    """One way to show a merged view as a directory."""

    def make(self, tree: MergedTree, place: Path) -> bool:
        """Show ``tree`` at the empty directory ``place/rootfs``; what else it takes is made beside that. What it has
        made or mounted there need not be ended by itself.

        False where this form isn't possible here; ``rootfs`` is still empty then. Raises OSError."""
        ...


class Materialised:
    """The form that is always possible: a tree of hard links into the store, or of copies."""

    def __init__(self, *, link: bool) -> None:
        self._link = link

    def make(self, tree: MergedTree, place: Path) -> bool:
        """Fill ``place/rootfs``; see :func:`materialise`."""
        materialise(tree, place / "rootfs", link=self._link)
        return True


class Views:
    """The directory ``root`` (``<store>/snapshots/views``). ``forms`` are tried in their order; by default a mount and,
    where that can't be, a tree. A read-only store's lie in ``imgpull-views-<user ID>`` in the system's directory for
    temporary files, whichever store it is."""

    def __init__(self, root: Path, forms: Sequence[ViewForm] | None, *, read_only: bool) -> None:
        self._root = root
        self._read_only = read_only
        self._forms = forms if forms is not None else (Mounted(), Materialised(link=not read_only))

    def prepare(self) -> None:
        """Make the directory; end and remove what dead processes left in it. Raises OSError."""
        make_directory(self._root)
        remove_dead(self._root, _remove_left)

    def make(self, tree: MergedTree, closing: contextlib.ExitStack) -> Path:
        """The directory that shows ``tree``, until ``closing`` is closed. Raises StoreError."""
        with translated("show the snapshot in", self._root), contextlib.ExitStack() as undo:
            place = undo.enter_context(make_private(_temporary_root() if self._read_only else self._root)).path
            undo.callback(_remove, place)
            # One level down: the root's own mode may let others in.
            rootfs = place / "rootfs"
            rootfs.mkdir()
            if not any(form.make(tree, place) for form in self._forms):
                raise StoreError(f"the snapshot can't be shown in {rootfs} in any form asked for", path=str(rootfs))
            closing.push(undo.pop_all())
            return rootfs


def _temporary_root() -> Path:
    """What dead processes left there is gone. Raises StoreError where it is somebody else's, OSError."""
    import tempfile  # 2 ms, with shutil, for those who read a store that they can't write

    root = Path(tempfile.gettempdir()) / f"imgpull-views-{os.geteuid()}"
    make_directory(root)
    # Anybody may have made it first: who can write there could put another tree in the place of a view.
    status = os.lstat(root)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StoreError(f"{root} is not a directory of this user alone: remove it, or set TMPDIR", path=str(root))
    remove_dead(root, _remove_left)
    return root


def _remove(place: Path) -> None:
    # Never through a mount: remove_tree stops at one that could not be ended.
    unmount(place / "rootfs")
    remove_tree(place)


def _remove_left(place: Path) -> None:
    try:
        _remove(place)
    except StoreError as error:
        # Somebody else's mount, which this process may not end, must not keep it from using the store.
        _log.warning("a view that a dead process left stays: %s", error)
