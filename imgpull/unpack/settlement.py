"""Settlement: what only a whole layer and its parents can tell, once its entries are made.

Hard links that waited for the parents, what whiteouts hide, names that come into this layer with a link, what is said
of directories, and last of all their attributes, since whatever is made or taken away in one changes its times.
"""

from __future__ import annotations

from imgpull.locking import Cancellation
from imgpull.store.snapshots.layer import Journal, TreePath
from imgpull.store.snapshots.merged import MergedTree
from imgpull.unpack.links import HardLinks
from imgpull.unpack.marks import Marks
from imgpull.unpack.metadata import DEFAULT_DIRECTORY, Attributes, Metadata, attributes_of
from imgpull.unpack.owntree import Directory, OwnTree
from imgpull.unpack.whiteouts import Whiteouts

__all__ = ["settle"]


def settle(
    tree: OwnTree,
    lower: MergedTree,
    links: HardLinks,
    whiteouts: Whiteouts,
    lower_links: set[TreePath],
    metadata: Metadata,
    cancel: Cancellation,
) -> Journal:
    """Finish ``tree`` upon ``lower``; returns what it hides there. Raises UnpackError, WhiteoutOrderError, OSError,
    PullCancelledError.

    ``lower_links``: symbolic links of lower layers that entries were led through.
    """
    links.complete(lower)
    whiteouts.resolve(lower, lower_links, cancel)
    marks = whiteouts.marks
    links.copy_up(lower, marks)
    order = [tree.root]
    for directory in order:
        order.extend(directory.children.values())
        if not directory.below and directory.parent is not None and directory.parent.below:
            marks.opaque(directory.path)
    for directory in order:
        cancel.raise_if_cancelled()
        attributes = directory.attributes or _implied(directory, lower, marks)
        true_mode = metadata.finish_directory(tree.fd(directory), attributes, b"/".join(directory.path))
        if true_mode is not None:
            tree.modes[directory.path] = true_mode
    return whiteouts.journal(lower)


def _implied(directory: Directory, lower: MergedTree, marks: Marks) -> Attributes:
    """What lower layers say of it. Decided last, so that it doesn't depend on the order of whiteouts."""
    path = directory.path
    if not directory.below or marks.hides(path):
        return DEFAULT_DIRECTORY
    node = lower.lookup(path)
    return attributes_of(node) if node is not None and node.is_directory else DEFAULT_DIRECTORY
