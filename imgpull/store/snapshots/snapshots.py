"""The snapshots of a store: prepare, commit, view, stat, update, remove, usage, walk.

Follows containerd's ``core/snapshots/snapshotter.go``: an *active* snapshot has a key and is written to; committing it
under a *name* (its ChainID) makes it *committed*, which never changes and can be the parent of others. Keys and names
share one name space.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from imgpull.errors import AlreadyExistsError, SnapshotInUseError, StoreError
from imgpull.store.database import Database
from imgpull.store.durability import SYNCS
from imgpull.store.filesystem import make_directory, translated
from imgpull.store.group_sync import EARLY_SECONDS, GroupSync
from imgpull.store.snapshots import records
from imgpull.store.snapshots.actives import Active, Actives
from imgpull.store.snapshots.committed import Committed, not_found
from imgpull.store.snapshots.copying import inherit_directory, remove_acls
from imgpull.store.snapshots.holds import Hold, remove_dead
from imgpull.store.snapshots.layer import Journal, LayerTree, TreePath
from imgpull.store.snapshots.materialise import unpack_into
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.records import SnapshotInfo, Usage
from imgpull.store.snapshots.rootfs import Rootfs
from imgpull.store.snapshots.views import ViewForm, Views

__all__ = ["Snapshots"]


class Snapshots:
    """The directory ``root`` (``<store>/snapshots``) and its rows in the database. Safe for threads and processes.

    Layout: ``<algorithm>/<hex>/{fs/, journal.json}`` a committed snapshot named ``algorithm:hex`` ·
    ``active/`` what is being written · ``views/`` directories of :attr:`Rootfs.path` · ``removed/`` on its way out.

    Every method raises StoreError or StoreFullError where the disk fails, and StoreError for a change when
    ``read_only``. ``durable``: a commit returns when the snapshot would survive a power cut; ``early_sync_seconds``:
    how often the disk is given what is being written before that, None for never. ``forms``: how :attr:`Rootfs.path`
    may show a snapshot, the best first; None for a mount, else a tree.
    """

    def __init__(
        self,
        root: Path,
        database: Database,
        *,
        durable: bool,
        read_only: bool,
        early_sync_seconds: float | None = EARLY_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        forms: Sequence[ViewForm] | None = None,
    ) -> None:
        self._root = root.absolute()
        self._read_only = read_only
        self._clock = clock
        sync = SYNCS["full" if durable else "none"]
        self._syncs = GroupSync(self._root, sync, early_seconds=early_sync_seconds if durable else None)
        self._actives = Actives(self._root / "active", self._syncs)
        self._views = Views(self._root / "views", forms, read_only=read_only)
        self._committed = Committed(self._root, database, sync, read_only=read_only)
        if not read_only:
            with translated("open the snapshots in", self._root):
                self._prepare_root()

    def _prepare_root(self) -> None:
        make_directory(self._root)
        remove_acls(self._root)
        for name in ("active", "removed"):
            make_directory(self._root / name)
        self._actives.remove_dead()
        self._views.prepare()
        remove_dead(self._root / "removed")

    # -- writing -------------------------------------------------------------------------------------------------

    def prepare(
        self,
        key: str,
        parent: str | None = None,
        *,
        target: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Active:
        """Begin a snapshot on top of ``parent``: an empty directory for this layer's own tree.

        Its root has the owner, attributes, mode and times of the parent's (but an owner other than root can write to
        it). ``target`` is the name it is meant for; such a snapshot is scratch and goes with its process. The parent
        can't be removed meanwhile.

        Raises AlreadyExistsError where ``target`` is committed or ``key`` is taken, SnapshotNotFoundError for the
        parent.
        """
        self._check_writable()
        if target is not None and target in self:
            raise AlreadyExistsError(f"the snapshot {target} is committed already", key=target)
        if key in self:
            raise AlreadyExistsError(f"the snapshot key {key!r} is taken: choose another", key=key)
        wanted = Active(key, self._root, parent, target, dict(labels or {}), self._clock().isoformat())
        with translated("prepare a snapshot in", self._root), contextlib.ExitStack() as undo:
            hold = undo.enter_context(self._held(parent))
            active = self._actives.make(wanted, hold)
            undo.pop_all()
            if parent is not None:
                self._inherit_root(parent, active)
        return active

    def _inherit_root(self, parent: str, active: Active) -> None:
        try:
            # The root's attributes are those of the topmost layer, so that one is all there is to open.
            with MergedTree([self._committed.top(parent)]) as tree:
                root = tree.lookup(())
                assert root is not None
                inherit_directory(root, active.path)
        except BaseException:
            self.remove(active.key)
            raise

    def commit(
        self,
        name: str,
        key: str,
        *,
        journal: Journal | None = None,
        diff_id: str | None = None,
        blob: str | None = None,
        size_bytes: int | None = None,
        inodes: int | None = None,
        labels: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> SnapshotInfo:
        """Make the active snapshot ``key`` the committed one ``name``; the key is gone then.

        ``parent`` sets the parent of one that was prepared without (containerd's rebase). ``blob`` is what was
        inflated: that it has ``diff_id`` is remembered, so the caller has measured that himself. Sizes not given are
        measured; labels add to those given at :meth:`prepare`. Raises AlreadyExistsError where ``name`` is committed
        (the active one stays, for the caller to remove), SnapshotNotFoundError for ``key`` or the parent,
        SnapshotInUseError where another thread or process is at it.
        """
        self._check_writable()
        with self._actives.held(key) as (active, writing), translated("commit the snapshot", active.path):
            if active.parent is not None and parent not in (None, active.parent):
                raise StoreError(f"the snapshot {key!r} was prepared on {active.parent}, not on {parent}")
            if size_bytes is None or inodes is None:
                measured = _measure(active.path)
                size_bytes = measured.size_bytes if size_bytes is None else size_bytes
                inodes = measured.inodes if inodes is None else inodes
            info = SnapshotInfo(
                name=name,
                kind="committed",
                parent=active.parent or parent,
                labels={**active.labels, **(labels or {})},
                created_at=self._clock().isoformat(),
                size_bytes=size_bytes,
                inodes=inodes,
                diff_id=diff_id,
            )
            with self._held(info.parent):
                self._committed.publish(active.path.parent, info, journal or Journal(), writing)
        self._committed.record_commit(info, blob)
        return info

    def update(self, name: str, labels: Mapping[str, str | None]) -> SnapshotInfo:
        """Change the labels named; None takes one away. ``name`` may be the key of an active snapshot."""
        self._check_writable()
        if name in self:
            info = records.relabelled(self._committed.info(name), labels)
            self._committed.record(info)
            return info
        with translated("update the snapshot in", self._root):
            return _info_of_active(self._actives.relabel(name, labels))

    def remove(self, name: str) -> None:
        """Remove a committed snapshot, or abort the active one with this key.

        Raises SnapshotNotFoundError, and SnapshotInUseError where it has children or is viewed or written.
        """
        self._check_writable()
        with translated(f"remove the snapshot {name} from", self._root):
            if name not in self:
                with self._actives.held(name):
                    # Leaving the block well is what removes it.
                    return
            hold = self._committed.hold(name, exclusive=True)
            if hold is None:
                raise SnapshotInUseError(f"cannot remove {name}: it is viewed or built upon right now")
            with hold:
                self._check_childless(name)
                self._committed.discard(name, hold)

    def _check_childless(self, name: str) -> None:
        # Whoever makes a child holds its parent, and this thread does so exclusively: the answer stays true.
        child = next((info.name for info in self.walk() if info.parent == name), None)
        if child is not None:
            raise SnapshotInUseError(f"cannot remove {name}: {child} rests on it; remove that first")

    # -- reading -------------------------------------------------------------------------------------------------

    def __contains__(self, name: object) -> bool:
        """Whether a snapshot of this name is committed: one ``stat``, no database."""
        return isinstance(name, str) and name in self._committed

    def stat(self, name: str) -> SnapshotInfo:
        """What is known of a committed snapshot, or of the active one with this key. Raises SnapshotNotFoundError."""
        if name in self:
            return self._committed.info(name)
        return _info_of_active(self._active(name))

    def walk(self) -> Iterator[SnapshotInfo]:
        """Every committed snapshot, then every active one, in no order that means anything. Snapshots may be changed,
        added and removed meanwhile; whether the walk sees those is left open."""
        yield from self._committed.walk()
        for active in self._actives.list():
            yield _info_of_active(active)

    def usage(self, name: str) -> Usage:
        """What a snapshot itself takes: as recorded at commit, or measured now for an active one."""
        if name in self:
            info = self._committed.info(name)
            return Usage(info.size_bytes, info.inodes)
        with translated("measure the snapshots in", self._root):
            return _measure(self._active(name).path)

    def chain(self, name: str) -> tuple[str, ...]:
        """Names of the snapshots this one is made of, the bottom first. Raises SnapshotNotFoundError,
        StoreCorruptError where a parent is missing."""
        return tuple(link for link, _ in self._committed.layers(name))

    def hold(self, name: str) -> Hold:
        """Hold a committed snapshot against removal, for a ``with`` block. Raises SnapshotNotFoundError."""
        with translated("hold the snapshot in", self._root):
            hold = self._committed.hold(name)
        assert hold is not None  # a shared hold waits
        return hold

    def merged(self, name: str | None) -> MergedTree:
        """The merged view of a committed snapshot (of nothing, for None: what the bottom layer is applied onto), for
        who sees to it that nobody removes it, by :meth:`hold` or an active child; close it. Raises as
        :meth:`chain`."""
        return MergedTree([layer for _, layer in self._committed.layers(name)] if name is not None else [])

    def view(self, name: str) -> Rootfs:
        """A committed snapshot for reading: ``with snapshots.view(name) as rootfs``. It can't be removed meanwhile.
        Raises SnapshotNotFoundError, StoreCorruptError."""
        with translated(f"view the snapshot {name} in", self._root), contextlib.ExitStack() as closing:
            closing.enter_context(self._held(name))
            tree = self.merged(name)
            kept = closing.pop_all()
        return Rootfs(tree, lambda: self._views.make(tree, kept), kept.close)

    def unpack(self, name: str, target: str | os.PathLike[str]) -> list[TreePath]:
        """An ordinary tree of its own in ``target``, an empty or new directory: nothing is shared with the store.

        Returns the paths of devices left out for want of CAP_MKNOD. Raises SnapshotNotFoundError, AlreadyExistsError
        where ``target`` holds anything; after an error it is as empty as before.
        """
        with self.view(name) as rootfs:
            return unpack_into(rootfs.tree, target)

    def close(self) -> None:
        """Let go of what is held; active snapshots stay on disk. A second call does nothing."""
        self._actives.close()
        self._syncs.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _held(self, name: str | None) -> contextlib.AbstractContextManager[Hold | None]:
        return contextlib.nullcontext() if name is None else self.hold(name)

    def _active(self, key: str) -> Active:
        active = self._actives.get(key)
        if active is None:
            raise not_found(key)
        return active

    def _check_writable(self) -> None:
        if self._read_only:
            raise StoreError(f"the store of {self._root} was opened read-only", path=str(self._root))


def _measure(path: Path) -> Usage:
    with MergedTree([LayerTree(path)]) as tree:
        sizes = {node.stat.st_ino: node.stat.st_size if node.is_regular else 0 for node in tree.walk()}
    return Usage(sum(sizes.values()), len(sizes))


def _info_of_active(active: Active) -> SnapshotInfo:
    return SnapshotInfo(active.key, "active", active.parent, active.labels, active.created_at)
