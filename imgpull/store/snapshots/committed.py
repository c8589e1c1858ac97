"""Committed snapshots: where they lie, what is recorded of them, and what they are made of.

On disk ``<algorithm>/<hex>/{fs/, journal.json}`` for the name ``algorithm:hex``. The directory is the snapshot: a
rename puts it there whole or not at all, so whether a chain is here is one ``stat``, and a lost row is made again.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from imgpull.errors import AlreadyExistsError, SnapshotNotFoundError, StoreCorruptError, StoreError
from imgpull.store.content import write_diff_id
from imgpull.store.database import Connection, Database
from imgpull.store.durability import Sync
from imgpull.store.filesystem import make_directory, translated
from imgpull.store.group_sync import Writing
from imgpull.store.snapshots import records
from imgpull.store.snapshots.holds import Hold, make_private
from imgpull.store.snapshots.layer import Journal, LayerTree
from imgpull.store.snapshots.records import SnapshotInfo
from imgpull.store.snapshots.removal import remove_tree

__all__ = ["Committed", "not_found"]

_NAME = re.compile(r"(?P<algorithm>[a-z0-9]+):(?P<hex>[0-9a-f]{64,128})", re.ASCII)
"""A ChainID (image-spec config.md): sha256, or the diff ID of a single layer in whatever algorithm that has."""
_KNOWN_LAYERS = 512
_Identity = tuple[int, int, int]
"""Inode, time and size of a file that is written once: whether another process put another in its place."""
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY})


class _Known(NamedTuple):
    journal: str
    """Path of its journal.json."""
    identity: _Identity
    parent: str | None
    layer: LayerTree


class Committed:
    """The committed snapshots below ``root`` and their rows. Raises OSError for the disk; callers translate."""

    def __init__(self, root: Path, database: Database, sync: Sync, *, read_only: bool) -> None:
        self._root = root
        self._base = str(root)
        self._database = database
        self._sync = sync
        self._read_only = read_only
        # Guards _layers, what was read of the snapshots used last, by name.
        self._lock = threading.Lock()
        self._layers: OrderedDict[str, _Known] = OrderedDict()

    def place(self, name: str) -> Path | None:
        """Where a snapshot of this name lies or would lie; None for what can't be a name."""
        match = _NAME.fullmatch(name)
        return self._root / match["algorithm"] / match["hex"] if match else None

    def _text(self, name: str) -> str | None:
        """:meth:`place` as text: asked many times for each layer, and a path takes longer to make than to stat."""
        match = _NAME.fullmatch(name)
        return f"{self._base}/{match['algorithm']}/{match['hex']}" if match else None

    def __contains__(self, name: str) -> bool:
        place = self._text(name)
        return place is not None and os.path.isdir(place)

    def hold(self, name: str, *, exclusive: bool = False) -> Hold | None:
        """Hold a snapshot against removal, or for it (None where somebody uses it). Raises SnapshotNotFoundError."""
        place = self._text(name)
        try:
            if place is not None:
                return Hold.take(place, exclusive=exclusive)
        except FileNotFoundError:
            pass
        raise not_found(name)

    # -- writing -------------------------------------------------------------------------------------------------

    def publish(self, scratch: Path, info: SnapshotInfo, journal: Journal, writing: Writing) -> None:
        """Make ``scratch`` (it holds ``fs/``) the snapshot: data synced → rename → directory synced.

        Raises AlreadyExistsError where another came first; ``scratch`` stays as it is then."""
        place = self.place(info.name)
        if place is None:
            raise StoreError(f"{info.name!r} can't name a snapshot: a ChainID is sha256:<64 lower-case hex digits>")
        if info.name in self:
            raise _exists(info.name)
        records.write_document(scratch / "journal.json", info, journal)
        written = _identity(f"{scratch}/journal.json")
        writing.settle()
        if make_directory(place.parent):
            self._sync.directory(self._root)
        try:
            os.rename(scratch, place)
        except OSError as error:
            if error.errno in _TAKEN:
                raise _exists(info.name) from error
            raise
        self._sync.directory(place.parent)
        self._remember(info.name, written, info.parent, LayerTree(place / "fs", journal))

    def record(self, info: SnapshotInfo) -> None:
        """Write the row of a snapshot that is there, in place of the one it has."""
        self._database.write(lambda connection: records.write_row(connection, info))

    def record_commit(self, info: SnapshotInfo, blob: str | None) -> None:
        """Write the row of a snapshot that was just published, and in the same write that ``blob`` has its diff ID.

        A rider: a row that is missing is made from ``journal.json``. So other processes may know the snapshot first;
        what they wrote of it stays, and one that they removed gets no row."""

        def write(connection: Connection) -> None:
            if info.name in self:
                records.write_row(connection, info, unless_known=True)
            if blob is not None and info.diff_id is not None:
                write_diff_id(connection, blob, info.diff_id)

        self._database.ride(write)

    def discard(self, name: str, hold: Hold) -> None:
        """Forget a snapshot, take it away in one step, then remove it at leisure. ``hold`` is exclusive, and let go
        as soon as the snapshot is gone from its place."""
        self._database.write(lambda connection: records.delete_row(connection, name))
        with make_private(self._root / "removed") as grave:
            os.rename(hold.path, f"{grave.path}/snapshot")
            self._sync.directory(os.path.dirname(hold.path))
            hold.release()
            with self._lock:
                self._layers.pop(name, None)
            remove_tree(grave.path)

    # -- reading -------------------------------------------------------------------------------------------------

    def info(self, name: str) -> SnapshotInfo:
        """What is recorded of a snapshot. Raises SnapshotNotFoundError, StoreCorruptError."""
        if name not in self:
            raise not_found(name)
        rows = self._database.query("SELECT * FROM snapshots WHERE name = ?", (name,))
        return records.info_of_row(rows[0]) if rows else self._healed(name)

    def walk(self) -> Iterator[SnapshotInfo]:
        """Every snapshot that is there, by name. One that is removed during the walk is left out."""
        names = self._names()
        rows = {row["name"]: row for row in self._database.query("SELECT * FROM snapshots")}
        for name in names:
            if name in rows:
                yield records.info_of_row(rows[name])
                continue
            try:
                yield self._healed(name)
            except SnapshotNotFoundError:
                continue

    def _healed(self, name: str) -> SnapshotInfo:
        """Of a snapshot whose process died between the rename and the row."""
        info, _ = self._read(name)
        if not self._read_only:
            self._database.write(lambda connection: records.write_row(connection, info, unless_known=True))
        return info

    def _names(self) -> list[str]:
        names: list[str] = []
        with translated("list the snapshots in", self._root):
            for algorithm in sorted(self._root.iterdir()) if self._root.is_dir() else []:
                if algorithm.is_dir():
                    candidates = (f"{algorithm.name}:{entry.name}" for entry in sorted(algorithm.iterdir()))
                    names.extend(name for name in candidates if _NAME.fullmatch(name))
        return names

    def layers(self, name: str) -> list[tuple[str, LayerTree]]:
        """The snapshots this one is made of, the bottom first, by their ``journal.json`` alone (no database).

        Raises SnapshotNotFoundError, StoreCorruptError where the chain is broken."""
        found: dict[str, LayerTree] = {}
        wanted: str | None = name
        while wanted is not None:
            if wanted in found:
                raise _broken(name, f"{wanted} is its own ancestor")
            try:
                parent, layer = self._layer(wanted)
            except SnapshotNotFoundError:
                if not found:
                    raise
                raise _broken(name, f"its parent {wanted} is missing") from None
            found[wanted] = layer
            wanted = parent
        return list(reversed(found.items()))

    def top(self, name: str) -> LayerTree:
        """The layer of one snapshot, without those below. Raises as :meth:`layers`."""
        return self._layer(name)[1]

    def _layer(self, name: str) -> tuple[str | None, LayerTree]:
        with self._lock:
            known = self._layers.get(name)
        # A chain of 40 asks 40 times for each of its layers: texts, since paths took longer than the stat.
        if known is not None and _identity(known.journal) == known.identity:
            return known.parent, known.layer
        identity = _identity(f"{self._text(name)}/journal.json")  # before it is read: then it is of no later one
        info, journal = self._read(name)
        layer = LayerTree(self._required(name) / "fs", journal)
        self._remember(name, identity, info.parent, layer)
        return info.parent, layer

    def _remember(self, name: str, identity: _Identity | None, parent: str | None, layer: LayerTree) -> None:
        if identity is None:
            return
        with self._lock:
            self._layers[name] = _Known(f"{self._text(name)}/journal.json", identity, parent, layer)
            if len(self._layers) > _KNOWN_LAYERS:
                self._layers.popitem(last=False)

    def _required(self, name: str) -> Path:
        place = self.place(name)
        if place is None:
            raise not_found(name)
        return place

    def _read(self, name: str) -> tuple[SnapshotInfo, Journal]:
        place = self._required(name)
        try:
            return records.read_document(place / "journal.json", name)
        except FileNotFoundError:
            if not place.is_dir():
                raise not_found(name) from None
            raise _broken(name, "its journal.json is missing") from None


def _identity(path: str) -> _Identity | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def not_found(name: str) -> SnapshotNotFoundError:
    """The error for a name or key the store does not have."""
    return SnapshotNotFoundError(f"the store has no snapshot {name}: pull the image again")


def _exists(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"the snapshot {name} is committed already", key=name)


def _broken(name: str, why: str) -> StoreCorruptError:
    return StoreCorruptError(f"the snapshot {name} is damaged ({why}): pull into a new store")
