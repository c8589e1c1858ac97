"""A view as an overlay mount: nothing is copied or linked, and nothing can be written through it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from pathlib import Path

from imgpull.store.filesystem import make_directory
from imgpull.store.snapshots.layer import LayerTree
from imgpull.store.snapshots.markers import MOST_MARKERS, hidden_below, write_markers
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.mounting import may_mount, mount_overlay

__all__ = ["Mounted", "stacked"]

_log = logging.getLogger("imgpull.store.snapshots")
_SETTINGS = {"index": "off", "metacopy": "off", "redirect_dir": "nofollow"}
"""Said, not left to the kernel's configuration: no attribute in a layer may lead elsewhere (``overlay.redirect`` and
``overlay.metacopy``; the applier refuses both)."""
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES, errno.ENODEV})
_NO_MARKERS = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.E2BIG})
"""The file system takes no whiteouts, or they would be too many; all else is wrong with the disk or this process."""


class Mounted:
    """The form of a view where this process may mount. Safe for threads: they would find out the same."""

    def __init__(self) -> None:
        self._possible: bool | None = None

    def make(self, tree: MergedTree, place: Path) -> bool:
        """Mount the view on ``place/rootfs``. False where that can't be done: the process may not, the file system
        takes no whiteouts or it would be too many, the kernel not so many layers, or a mode is known to the journal
        alone. Raises OSError."""
        if self._possible is None:
            self._possible = may_mount()
        if not self._possible or any(layer.modes for layer in tree.layers):
            return False
        try:
            lowers = stacked(tree.layers, place)
        except OSError as error:
            if error.errno not in _NO_MARKERS:
                raise
            _log.info("the view in %s is not mounted: no whiteouts there (%s)", place, error.strerror)
            return False
        try:
            mount_overlay(lowers, _SETTINGS, place / "rootfs")
        except OSError as error:
            _log.info("the view in %s is not mounted: %s", place, error.strerror)
            if error.errno in _FORBIDDEN:
                self._possible = False
            return False
        return True


def stacked(layers: Sequence[LayerTree], place: Path) -> list[str]:
    """Directories which overlayfs, stacking them (the top first), shows as the merged view of ``layers`` (the bottom
    first). Those that aren't layers are made in ``place``. Raises OSError."""
    lowers: list[str] = []
    left = MOST_MARKERS
    for index in reversed(range(len(layers))):
        layer = layers[index]
        lowers.append(layer.root)
        if () in layer.opaques:
            break
        if index and layer.marked:
            with MergedTree(layers[:index]) as below:
                hidden = hidden_below(layer, below, left)
                left -= sum(map(len, hidden.values()))
                if hidden:
                    markers = place / f"markers-{index}"
                    write_markers(hidden, below, markers, place / "whiteout")
                    lowers.append(str(markers))
    if len(lowers) == 1:
        # Overlayfs wants two at least where nothing can be written.
        empty = place / "empty"
        make_directory(empty)
        lowers.append(str(empty))
    return lowers
