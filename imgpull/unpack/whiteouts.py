"""Whiteouts (image-spec layer.md): what they name is settled at the end of the layer, so their order means nothing.

They "MUST only apply to resources in lower layers": the directory of one is looked for through this layer's own real
directories and else in the parents' view, links there followed inside the root. Where this layer has put something
else there, nothing of the lower layers is left to hide.
"""

from __future__ import annotations

from collections.abc import Sequence

from imgpull.errors import UnsafeEntryError
from imgpull.limits import Limits
from imgpull.locking import Cancellation
from imgpull.store.snapshots.layer import Journal, TreePath
from imgpull.store.snapshots.merged import MOST_LINKS_FOLLOWED, MergedTree
from imgpull.unpack.entry import Entry
from imgpull.unpack.marks import Marks
from imgpull.unpack.owntree import Directory, OwnTree
from imgpull.unpack.paths import WHITEOUT_PREFIX, Paths
from imgpull.unpack.refusals import exceeded, unsafe

__all__ = ["WhiteoutOrderError", "Whiteouts"]

_AUFS = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


class WhiteoutOrderError(UnsafeEntryError):
    """A symbolic link of a lower layer is hidden by a whiteout that came after entries which were led through it.

    The specification wants the same result as if the whiteout had come first: apply the layer again, into an empty
    directory, with ``Applier(…, hidden=error.hidden)``. No builder is known to write such a layer."""

    def __init__(self, message: str, *, hidden: Marks | None = None, layer: str = "", entry: str = "") -> None:
        super().__init__(message, layer=layer, entry=entry)
        self.hidden = hidden


class Whiteouts:
    """Collects the markers of one layer, then turns them into its journal."""

    def __init__(self, tree: OwnTree, limits: Limits, layer: str) -> None:
        self._tree = tree
        self._limits = limits
        self._layer = layer
        self._names: dict[TreePath, set[bytes]] = {}
        self._opaques: set[TreePath] = set()
        self.marks = Marks()
        """What this layer hides, once :meth:`resolve` was called."""

    def take(self, entry: Entry, parts: Sequence[bytes], paths: Paths) -> bool:
        """Whether the entry is a marker (or lies below one) and must not be made; ``parts`` of its name.

        What it hides by the letter of its name ``paths`` is told at once. Raises UnsafeEntryError.
        """
        for part in parts[:-1]:
            if part.startswith(_AUFS):
                return True  # aufs' own directories: .wh..wh.plnk, .wh..wh.orph
            if part.startswith(WHITEOUT_PREFIX):
                raise unsafe(self._layer, entry.name, "lies below a whiteout")
        base = parts[-1]
        if not base.startswith(WHITEOUT_PREFIX) or (base.startswith(_AUFS) and base != _OPAQUE):
            return base.startswith(WHITEOUT_PREFIX)
        if len(parts) > self._limits.path_depth:
            raise exceeded(self._layer, entry.name, "lies too deep", "path_depth")
        # aufs made its whiteouts hard links of one another, and docker's oldest layers still have them.
        if entry.size_bytes or entry.kind not in ("file", "hardlink"):
            raise unsafe(self._layer, entry.name, "has a whiteout's name and is no empty file")
        directory = tuple(parts[:-1])
        if base == _OPAQUE:
            self._opaques.add(directory)
            paths.hide(directory, None)
            return True
        victim = base[len(WHITEOUT_PREFIX) :]
        if victim in (b"", b".", b".."):
            raise unsafe(self._layer, entry.name, "is a whiteout of nothing, or of a directory's own or parent's name")
        self._names.setdefault(directory, set()).add(victim)
        paths.hide(directory, victim)
        return True

    def resolve(self, lower: MergedTree, lower_links: set[TreePath], cancel: Cancellation) -> None:
        """Find what the markers hide in ``lower``: :attr:`marks`. Raises WhiteoutOrderError where it is one of
        ``lower_links``, through which entries were led, and PullCancelledError."""
        marks = self.marks
        while self._opaques:
            cancel.raise_if_cancelled()
            directory = self._opaques.pop()
            where = self._lower_directory(lower, directory)
            if where is not None:
                marks.opaque(where)
        while self._names:
            cancel.raise_if_cancelled()
            directory, names = self._names.popitem()
            where = self._lower_directory(lower, directory)
            if where is not None:
                hidden = {name for name in names if lower.lookup((*where, name)) is not None}
                if hidden:
                    marks.whiteout(where, hidden)
        for link in lower_links:
            if marks.hides(link):
                shown = repr(b"/".join(link).decode("utf-8", "surrogateescape"))
                message = f"layer {self._layer} hides the link {shown} after entries that lead through it: refused"
                raise WhiteoutOrderError(message, hidden=marks, layer=self._layer)

    def _lower_directory(self, lower: MergedTree, parts: TreePath) -> TreePath | None:
        """The directory of the parents' view that a marker's directory is, if any of it still shows."""
        path: list[bytes] = []
        own: list[Directory | None] = [self._tree.root]
        pending = list(reversed(parts))
        hops = 0
        while pending:
            part = pending.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if path:
                    path.pop()
                    own.pop()
                continue
            here = own[-1]
            child = here.children.get(part) if here is not None else None
            if child is None:
                if here is not None and self._tree.link_target(here, part) is not None:
                    return None
                node = lower.lookup((*path, part))
                if node is not None and node.is_symlink and hops < MOST_LINKS_FOLLOWED:
                    hops += 1
                    target = node.readlink()
                    if target.startswith(b"/"):
                        del path[:], own[1:]
                    pending.extend(reversed(target.split(b"/")))
                    continue
                if node is None or not node.is_directory:
                    return None
            path.append(part)
            own.append(child)
            if len(path) > self._limits.path_depth:
                return None
        node = lower.lookup(tuple(path))
        return tuple(path) if node is not None and node.is_directory else None

    def journal(self, lower: MergedTree) -> Journal:
        """What to write beside the tree; only what hides something that no other mark hides already."""
        journal = Journal(modes=self._tree.modes)

        def whiteout(directory: TreePath, name: bytes) -> None:
            path = (*directory, name)
            state = self._tree.state(path)
            if isinstance(state, Directory):
                opaque(path)
            elif not state:
                journal.whiteout(directory, name)

        def opaque(path: TreePath) -> None:
            node = lower.lookup(path)
            if node is not None and node.is_directory and self._tree.state(path) is not True:
                journal.opaques.add(path)

        self.marks.outermost(whiteout, opaque)
        return journal
