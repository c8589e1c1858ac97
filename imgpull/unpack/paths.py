"""How a name of the archive finds its directory.

The definition is serial application onto the parents' tree: a name leads through this layer's own entries first, then
through the parents' merged view, symbolic links followed inside the root. ``lib → usr/lib`` in a lower layer sends
``lib/x`` to ``usr/lib/x``, as umoci does; a real ``lib`` that hides the link, as overlay2 makes it, breaks the image.
"""

from __future__ import annotations

from collections.abc import Sequence

from imgpull.limits import Limits
from imgpull.store.snapshots.layer import TreePath
from imgpull.store.snapshots.merged import MOST_LINKS_FOLLOWED
from imgpull.unpack.assumption import LowerLinks
from imgpull.unpack.marks import Marks
from imgpull.unpack.owntree import Directory, OwnTree
from imgpull.unpack.refusals import exceeded, unsafe

__all__ = ["WHITEOUT_PREFIX", "Paths", "Place"]

WHITEOUT_PREFIX = b".wh."
_STEPS = 4_096
"""Components walked for one name, those of links included: 255 links of 2 000 components would be half a million."""
_REMEMBERED = 4_096


class Place:
    """A canonical path, and what this layer has along it."""

    __slots__ = ("_below", "led", "own", "passed", "path")

    def __init__(self, root: Directory) -> None:
        self.path: list[bytes] = []
        self.own: list[Directory | None] = [root]
        """This layer's directory at each prefix of the path, the root's first; None where it has none."""
        self._below = [root.below]
        self.led = False
        """Whether a symbolic link was followed."""
        self.passed: list[TreePath] = []
        """Paths walked through that are no directories of this layer: something else there would lead elsewhere."""

    @property
    def below(self) -> bool:
        """Whether what lower layers have here shows through."""
        return self._below[-1]

    def enter(self, name: bytes, directory: Directory | None, *, below: bool) -> None:
        self.path.append(name)
        self.own.append(directory)
        self._below.append(below)

    def leave(self) -> None:
        """One level up; the root is its own parent, as in a chroot."""
        if self.path:
            self.path.pop()
            self.own.pop()
            self._below.pop()

    def restart(self) -> None:
        """Back to the root."""
        del self.path[:], self.own[1:], self._below[1:]


class Paths:
    """Resolves names and makes the directories they imply. Parents once found are remembered until a link changes."""

    def __init__(self, tree: OwnTree, lower: LowerLinks, limits: Limits, layer: str) -> None:
        self.hidden = Marks()
        """What is known by now to be hidden in lower layers: a symbolic link there leads nowhere."""
        self.lower_links: set[TreePath] = set()
        """Symbolic links of lower layers that entries of this one were led through."""
        self._tree = tree
        self._lower = lower
        self._limits = limits
        self._layer = layer
        self._parents: dict[bytes, Directory] = {}
        self._followed: set[TreePath] = set()  # what _parents depends on, where links were followed
        self._followed_names: set[bytes] = set()

    def parent(self, prefix: bytes, name: bytes) -> Directory:
        """The directory for ``prefix``, a name up to its last slash; made where it is missing.

        ``name`` is the entry's, for messages. Raises UnsafeEntryError and LimitExceededError.
        """
        known = self._parents.get(prefix)
        if known is not None:
            return known
        place = self.locate(prefix.split(b"/"), name)
        directory = self.ensure(place, name)
        if len(self._parents) >= _REMEMBERED or len(self._followed) >= _REMEMBERED:
            self.forget()
        self._parents[prefix] = directory
        if place.led:  # otherwise all of it is directories of this layer by now
            self._followed.update(place.passed)
            self._followed_names.update(path[-1] for path in place.passed)
        return directory

    def locate(self, parts: Sequence[bytes], name: bytes, *, linking: bool = False) -> Place:
        """Where ``parts`` leads, links followed; nothing is made.

        ``linking``: for a hard link's target, which is looked up as if this layer hid nothing: whiteouts hold
        whatever their order, so the target may be one that goes away.
        """
        if b".." in parts:
            raise unsafe(self._layer, name, "has '..' in a name")
        place = Place(self._tree.root)
        pending = list(reversed(parts))
        steps = hops = 0
        while pending:
            part = pending.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":  # only ever out of a link's target
                place.leave()
                continue
            steps += 1
            target = self._enter(place, part, linking=linking)
            if target is not None:
                hops += 1
                place.led = True
                if target.startswith(b"/"):
                    place.restart()
                pending.extend(reversed(target.split(b"/")))
            if steps > _STEPS or hops > MOST_LINKS_FOLLOWED:
                raise unsafe(self._layer, name, "leads through too many symbolic links")
            if len(place.path) > self._limits.path_depth:
                raise exceeded(self._layer, name, "lies too deep", "path_depth")
        return place

    def _enter(self, place: Place, part: bytes, *, linking: bool) -> bytes | None:
        """One component further; or, where that is a symbolic link, its target, and the place stays the same."""
        here = place.own[-1]
        if here is not None:
            child = here.children.get(part)
            if child is not None:
                place.enter(part, child, below=child.below)
                return None
        path = (*place.path, part)
        place.passed.append(path)
        if here is not None:
            target = self._tree.link_target(here, part)
            if target:
                return target
            if target is not None:
                place.enter(part, None, below=False)
                return None
        target = self._lower_target(path, linking=linking) if place.below else None
        if target is None:
            place.enter(part, None, below=place.below)
        return target

    def _lower_target(self, path: TreePath, *, linking: bool) -> bytes | None:
        if not linking and self.hidden.hides(path):
            return None
        target = self._lower.link_target(path)
        if target is not None and not linking:
            self.lower_links.add(path)
        return target

    def ensure(self, place: Place, name: bytes) -> Directory:
        """Make the directories of a place that this layer does not have yet.

        What is no directory in a parent's place gives way to one (umoci's rule), whichever layer it came from.
        """
        where = self._tree.root
        for part, own in zip(place.path, place.own[1:], strict=True):
            if own is None and part.startswith(WHITEOUT_PREFIX):
                raise unsafe(self._layer, name, "leads into a directory with a whiteout's name")
            where = own or self.make_directory(where, part)
        return where

    # -- what a new entry changes for names already resolved -----------------------------------------------------

    def hide(self, directory: TreePath, name: bytes | None) -> None:
        """A whiteout, or (None) an opaque marker, by the letter of its name: links it hides are followed no more.

        Names that led through one before stay where they led: Whiteouts.resolve finds that out."""
        if name is None:
            self.hidden.opaque(directory)
        else:
            self.hidden.whiteout(directory, (name,))

    def make_directory(self, parent: Directory, name: bytes) -> Directory:
        """A directory in place of whatever this layer has there."""
        self.placing(parent, name)
        return self._tree.make_directory(parent, name)

    def clear(self, parent: Directory, name: bytes) -> None:
        """Take away what this layer has there; names that led through it lead elsewhere from now on."""
        if name in parent.children:
            self.forget()
        else:
            self.placing(parent, name)
        self._tree.clear(parent, name)

    def placing(self, parent: Directory, name: bytes) -> None:
        """To be called before anything is put at a name: it may stand where a link was followed."""
        if name in self._followed_names and (*parent.path, name) in self._followed:
            self.forget()

    def forget(self) -> None:
        """Resolve every name anew from now on."""
        self._parents.clear()
        self._followed.clear()
        self._followed_names.clear()
