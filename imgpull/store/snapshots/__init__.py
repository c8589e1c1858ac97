"""Snapshots: each layer of an image as a tree of its own, and the merged view of a stack of them.

::

    prepare ─▶ Active.path (write one layer's tree; its deletions go into a Journal) ─▶ commit ─▶ view ─▶ Rootfs

Nothing here needs a mount or a privilege; where a view may be mounted for other programs, it is.
"""

from __future__ import annotations

from imgpull.store.snapshots.actives import Active
from imgpull.store.snapshots.layer import Journal, LayerTree, TreePath
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.node import Node
from imgpull.store.snapshots.records import SnapshotInfo, Usage, inherited_labels
from imgpull.store.snapshots.rootfs import Rootfs
from imgpull.store.snapshots.snapshots import Snapshots

__all__ = [
    "Active",
    "Journal",
    "LayerTree",
    "MergedTree",
    "Node",
    "Rootfs",
    "SnapshotInfo",
    "Snapshots",
    "TreePath",
    "Usage",
    "inherited_labels",
]
