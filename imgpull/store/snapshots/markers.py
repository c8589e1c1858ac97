"""What a layer hides, in the form overlayfs understands: a directory of whiteouts between it and the layer below.

A layer's own tree stays plain. Its whiteouts can't stand in it beside entries of the same names, and need not: what
they hide lies below, so they may as well stand there::

    layer 2    fs/                  its own entries
    markers    etc/motd (0:0)       what layer 2 hides, where a lower layer has it
    layer 1    fs/

A whiteout (character device 0:0) between two directories of one name cuts the lower one off, which is what opaque
means; so no ``trusted.*`` attribute is needed, and with it no capability but that to mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from imgpull.store.filesystem import make_directory
from imgpull.store.snapshots.copying import finish_directory
from imgpull.store.snapshots.descriptors import Descriptors
from imgpull.store.snapshots.layer import LayerTree, TreePath
from imgpull.store.snapshots.merged import MergedTree

__all__ = ["MOST_MARKERS", "hidden_below", "write_markers"]

MOST_MARKERS = 10_000
"""In one view. An opaque directory that a layer itself lacks takes one for each name below."""
_NO_NAMES: frozenset[bytes] = frozenset()
_WHITEOUT = os.makedev(0, 0)


def hidden_below(layer: LayerTree, below: MergedTree, most: int = MOST_MARKERS) -> dict[TreePath, set[bytes]]:
    """Directory of ``below`` → names in it that ``layer``, on top of it, hides by its journal and not by itself.

    Only what is there: overlayfs shows a whiteout that hides nothing when it lists a directory that no lower layer
    has. The root's opaque mark is left to who stacks the layers: nothing below is stacked then. Raises OSError, E2BIG
    for more than ``most`` names.
    """
    hidden: dict[TreePath, set[bytes]] = {}
    merging: set[TreePath] = set()
    with MergedTree([LayerTree(layer.root)]) as own:
        # A directory comes before what is in it.
        for path in sorted(layer.marked):
            if path and not (path[:-1] in merging and _is_directory(below, path) and _may_be_directory(own, path)):
                continue
            if path and layer.hides(path[:-1], path[-1]):
                continue
            where, names = path, set[bytes]()
            if path not in layer.opaques:
                merging.add(path)
                names = {name for name in layer.whiteouts.get(path, _NO_NAMES) if _cuts((*path, name), own, below)}
            elif own.lookup(path) is not None:
                where, names = path[:-1], {path[-1]}
            else:  # said of a directory that the layer doesn't have: it stays, as it is below, and empty
                names = below.names(path)
            if names:
                hidden.setdefault(where, set()).update(names)
                most -= len(names)
            if most < 0:
                raise OSError(errno.E2BIG, f"more than {MOST_MARKERS} names to hide")
    return hidden


def _cuts(path: TreePath, own: MergedTree, below: MergedTree) -> bool:
    """Whether a whiteout of this name makes a difference: an entry that isn't a directory hides by itself."""
    lower, upper = below.lookup(path), own.lookup(path)
    return lower is not None and (upper is None or (upper.is_directory and lower.is_directory))


def _is_directory(tree: MergedTree, path: TreePath) -> bool:
    node = tree.lookup(path)
    return node is not None and node.is_directory


def _may_be_directory(own: MergedTree, path: TreePath) -> bool:
    node = own.lookup(path)
    return node is None or node.is_directory


def write_markers(hidden: Mapping[TreePath, set[bytes]], below: MergedTree, target: Path, whiteout: Path) -> None:
    """Make the directory ``target`` with a whiteout for each name: a hard link to ``whiteout``, which is made if it is
    missing. The directories in it are as ``below`` has them, since overlayfs shows the attributes of the topmost one
    and that may be these.

    Raises OSError, EPERM where the file system takes no whiteouts (overlayfs itself)."""
    directories = sorted({path[:end] for path in hidden for end in range(len(path) + 1)})
    make_directory(target)
    with contextlib.suppress(FileExistsError):
        os.mknod(whiteout, stat.S_IFCHR, _WHITEOUT)
    places = Descriptors([LayerTree(target)])
    with contextlib.closing(places), places.lock:
        for path in directories:
            if path:
                os.mkdir(path[-1], stat.S_IRWXU, dir_fd=places.get(0, path[:-1]))
            for name in hidden.get(path, ()):
                _put(whiteout, places.get(0, path), name)
        # But for the root's, which never show: the layer itself has one.
        for path in reversed(directories[1:]):
            node = below.lookup(path)
            assert node is not None  # hidden_below found it there
            finish_directory(node, places.get(0, path))


def _put(whiteout: Path, directory_fd: int, name: bytes) -> None:
    # One inode for all: an inode cost a millisecond on ext4, a link a fortieth of that.
    try:
        os.link(whiteout, name, dst_dir_fd=directory_fd)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        os.mknod(name, stat.S_IFCHR, _WHITEOUT, dir_fd=directory_fd)
