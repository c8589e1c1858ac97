"""Hard links: within the layer, and to what lower layers have.

A link into a lower layer brings its target into this one (as overlayfs copies up), so that both names are one inode
in one layer and whoever copies the tree sees the group. Inodes of lower layers are linked, never changed: entries of
this layer replace names. Nothing is ever copied by name as a fallback for a missing target (CVE-2026-87910).

Where the parents are not known yet, an empty file takes the link's place until they are. Every later entry sees it as
it would see the link, unless that leads somewhere because its target is a symbolic link: :meth:`HardLinks.holds`.
"""

from __future__ import annotations

import errno
import os
import stat

from imgpull.locking import Cancellation
from imgpull.store.snapshots.copying import copy_node
from imgpull.store.snapshots.layer import TreePath
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.node import Node
from imgpull.unpack.entry import Entry
from imgpull.unpack.marks import Marks
from imgpull.unpack.metadata import Metadata
from imgpull.unpack.owntree import Directory, Inode, OwnTree
from imgpull.unpack.paths import Paths, Place
from imgpull.unpack.refusals import invalid, typed_errors, unsafe

__all__ = ["HardLinks"]

_CANT_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Another file system, one without hard links, or fs.protected_hardlinks: then it is copied, inode for inode."""
_MOST_STAND_INS = 16_384
"""In one layer: each takes some 400 bytes. And links of one inode, with those it has below: file systems take 32 000
at least, so upon its parents the layer would not have met that bound, not even with names that were replaced since."""
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class HardLinks:
    """Makes the hard links of one layer; :meth:`copy_up` completes the groups once its whiteouts are known.

    ``lower``: the parents' view, or None while it is not known. What loops over links raises PullCancelledError once
    ``cancel`` has fired."""

    def __init__(
        self,
        tree: OwnTree,
        paths: Paths,
        lower: MergedTree | None,
        metadata: Metadata,
        layer: str,
        cancel: Cancellation,
    ) -> None:
        self._tree = tree
        self._paths = paths
        self._lower = lower
        self._metadata = metadata
        self._layer = layer
        self._cancel = cancel
        self._stand_ins = 0  # ever made: upon the parents each would have been a link
        self._targets: dict[TreePath, Node] = {}
        self._awaited: dict[TreePath, None] = {}  # targets that the parents must have
        self._copies: dict[Inode, list[TreePath]] = {}  # lower inode → names of its copy, perhaps replaced since

    def make(self, entry: Entry, parent: Directory, name: bytes) -> None:
        """One hard link entry. The link gets none of the entry's metadata: the inode has its own (CVE-2021-32760).

        Raises InvalidArchiveError where there is no such target, or it is a directory or the link itself.
        """
        parts = [part for part in entry.linkname.split(b"/") if part not in (b"", b".")]
        if not parts:
            raise invalid(self._layer, entry.name, "is a hard link to nothing")
        if b".." in parts:
            raise unsafe(self._layer, entry.name, "has '..' in its target")
        place = self._paths.locate(parts[:-1], entry.name, linking=True)
        target = (*place.path, parts[-1])
        directory = place.own[-1]
        if directory is not None and parts[-1] in directory.children:
            raise invalid(self._layer, entry.name, "is a hard link to a directory")
        link = (*parent.path, name)
        if target[: len(link)] == link:
            raise invalid(self._layer, entry.name, "is a hard link to itself, or to what it takes the place of")
        self._paths.placing(parent, name)
        if directory is not None and self._link_own(directory, parts[-1], parent, name):
            self._share(target, link)
            return
        if self._lower is None and place.below:
            self._stand_in(target, parent, name)
            return
        node = self._lower.lookup(target) if self._lower is not None and place.below else None
        if node is None or node.is_directory:
            raise invalid(self._layer, entry.name, f"is a hard link to {os.fsdecode(entry.linkname)!r}, not there")
        self._targets.setdefault(target, node)
        self._link_lower(node, parent, name)

    def _share(self, known: TreePath, link: TreePath) -> None:
        """What is noted of one name of an inode holds for the new one."""
        tree = self._tree
        if known in tree.modes:
            tree.modes[link] = tree.modes[known]
        if known in tree.stand_ins:
            self._note_stand_in(link, tree.stand_ins[known])
        if known in tree.copies:
            self._note_copy(tree.copies[known], link)

    def _link_own(self, directory: Directory, target: bytes, parent: Directory, name: bytes) -> bool:
        """False where the target does not exist in this layer."""
        for _ in range(2):
            source_fd = self._tree.fd(directory)
            parent_fd = self._tree.fd(parent)
            try:
                os.link(target, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
                return True
            except FileExistsError:
                # ENOENT comes before EEXIST: the target is there, so what is in the way may go.
                self._paths.clear(parent, name)
            except FileNotFoundError:
                return False
        raise AssertionError("a name taken away is still there")

    def _link_lower(self, node: Node, parent: Directory, name: bytes) -> None:
        inode = _inode(node)
        if self._tree.link_target(parent, name) is not None or name in parent.children:
            self._paths.clear(parent, name)
        if inode not in self._copies or not self._link_copy(inode, parent, name):
            try:
                node.link_to(self._tree.fd(parent), name)
            except OSError as error:
                if error.errno not in _CANT_LINK:
                    raise
                self._copy(node, parent, name)
        if node.lifted or not self._metadata.privileged and node.is_regular and not node.permissions & 0o400:
            self._tree.modes[(*parent.path, name)] = node.permissions

    def _link_copy(self, inode: Inode, parent: Directory, name: bytes) -> bool:
        """Link to the copy made earlier, if one of its names still means it."""
        for copy in self._copies[inode]:
            directory = self._tree.state(copy[:-1]) if copy in self._tree.copies else False
            if isinstance(directory, Directory) and self._link_own(directory, copy[-1], parent, name):
                self._note_copy(inode, (*parent.path, name))
                return True
        return False

    def _note_copy(self, inode: Inode, path: TreePath) -> None:
        self._copies.setdefault(inode, []).append(path)
        self._tree.copies[path] = inode

    def _copy(self, node: Node, parent: Directory, name: bytes) -> None:
        """A new inode with all that the lower one has."""
        directory_fd = self._tree.fd(parent)
        if not copy_node(node, directory_fd, name):
            raise invalid(self._layer, b"/".join(node.path), "is a device that can be neither linked nor made here")
        if node.is_regular:
            self._tree.size_bytes += node.stat.st_size
            if not self._metadata.privileged and not node.permissions & stat.S_IRUSR:
                # As Metadata does: we could not read it.
                os.chmod(name, node.permissions | stat.S_IRUSR, dir_fd=directory_fd)
        self._tree.inodes += 1
        self._note_copy(_inode(node), (*parent.path, name))

    # -- while the parents are not known -------------------------------------------------------------------------

    def _stand_in(self, target: TreePath, parent: Directory, name: bytes) -> None:
        try:
            fd = os.open(name, _CREATE, 0, dir_fd=self._tree.fd(parent))
        except FileExistsError:
            self._paths.clear(parent, name)
            fd = os.open(name, _CREATE, 0, dir_fd=self._tree.fd(parent))
        os.close(fd)
        self._tree.inodes += 1
        self._note_stand_in((*parent.path, name), target)

    def _note_stand_in(self, link: TreePath, target: TreePath) -> None:
        self._stand_ins += 1
        if self._stand_ins <= _MOST_STAND_INS:
            self._awaited.setdefault(target)
            self._tree.stand_ins[link] = target

    @property
    def awaits(self) -> bool:
        """Whether anything was taken to be in the parents."""
        return bool(self._awaited)

    def holds(self, lower: MergedTree) -> bool:
        """Whether each target is there, behaves as its stand-in did, and takes as many links as there were."""
        for target in self._awaited:
            self._cancel.raise_if_cancelled()
            node = lower.lookup(target)
            if node is None or node.is_directory or node.is_symlink:
                return False
            if node.stat.st_nlink + self._stand_ins > _MOST_STAND_INS:
                return False
        return True

    def complete(self, lower: MergedTree) -> None:
        """Put the links in the places of what stands in for them; :meth:`holds` is true."""
        for target in self._awaited:
            node = lower.lookup(target)
            assert node is not None
            self._targets[target] = node
        for link, target in tuple(self._tree.stand_ins.items()):
            self._cancel.raise_if_cancelled()
            with typed_errors(self._layer, b"/".join(link)):
                parent = self._tree.state(link[:-1])
                assert isinstance(parent, Directory)
                self._tree.clear(parent, link[-1])
                self._link_lower(self._targets[target], parent, link[-1])

    # -- once the whiteouts are known ----------------------------------------------------------------------------

    def copy_up(self, lower: MergedTree, marks: Marks) -> None:
        """Bring the linked targets into this layer, and the other names their inodes have in the same directories,
        except those that this layer hides or replaces. Names elsewhere would cost a walk of all lower layers."""
        groups: dict[TreePath, dict[Inode, list[Node]]] = {}
        for path, node in self._targets.items():
            names = [node]
            if node.stat.st_nlink > 1:
                if path[:-1] not in groups:
                    groups[path[:-1]] = _groups(lower, path[:-1])
                names = groups[path[:-1]].get(_inode(node), names)
            for other in names:
                self._cancel.raise_if_cancelled()
                with typed_errors(self._layer, b"/".join(other.path)):
                    parent = self._showing_parent(other.path) if not marks.hides(other.path) else None
                    if parent is not None:
                        self._link_lower(other, parent, other.name)

    def _showing_parent(self, path: TreePath) -> Directory | None:
        """This layer's directory for a lower path that still shows through; None where it doesn't."""
        if self._tree.state(path) is not False:
            return None
        place = Place(self._tree.root)
        for part in path[:-1]:
            own = place.own[-1]
            child = own.children.get(part) if own is not None else None
            if child is not None and not child.below:
                return None
            place.enter(part, child, below=True)
        return self._paths.ensure(place, b"/".join(path))


def _inode(node: Node) -> Inode:
    return node.stat.st_dev, node.stat.st_ino


def _groups(lower: MergedTree, directory: TreePath) -> dict[Inode, list[Node]]:
    """Names in one directory of the parents' view that share inodes. Each directory is read once at most."""
    found: dict[Inode, list[Node]] = {}
    for node in lower.scan(directory):
        if node.stat.st_nlink > 1 and not node.is_directory:
            found.setdefault(_inode(node), []).append(node)
    return found
