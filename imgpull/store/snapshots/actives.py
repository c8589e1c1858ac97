"""Active snapshots: directories a layer is being written to, not yet anybody's parent.

On disk ``active/<first 32 hex digits of sha256(key)>/{active.json, snapshot/fs/}``. The key's digest is the name, so
that one ``mkdir`` decides between two that want the same key, in whatever process. The directory is mode 0700 and held
exclusively by who made it; ``snapshot/`` in it is what a commit moves away, without the hold.

One with a *target* (the ChainID it is to become) is scratch of an unpack: when its process is gone it is removed at
the next open, since the layer can be applied again. One without a target is the caller's own work, and stays until it
is committed or removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from imgpull.errors import AlreadyExistsError, SnapshotInUseError, SnapshotNotFoundError
from imgpull.store.filesystem import make_directory, replace_file
from imgpull.store.group_sync import GroupSync, Writing
from imgpull.store.snapshots.holds import Hold
from imgpull.store.snapshots.records import changed_labels
from imgpull.store.snapshots.removal import remove_tree

__all__ = ["Active", "Actives"]

_RECORD = "active.json"
_ROOT_MODE = 0o755
"""Of a layer's root when neither the layer nor a parent says otherwise (containerd's testsuite, RootPermission)."""


@dataclass(frozen=True, slots=True)
class Active:
    """A snapshot that is being written."""

    key: str
    path: Path
    """Write the layer's own tree here, and only that: what lies in the parents is not in it."""
    parent: str | None
    target: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""


class _Held(NamedTuple):
    holds: list[Hold]
    """On its directory and, with a parent, on the parent's."""
    writing: Writing

    def release(self) -> None:
        self.writing.release()
        for hold in self.holds:
            hold.release()


class Actives:
    """The directory ``active/`` and this process's holds on what is in it."""

    def __init__(self, root: Path, syncs: GroupSync) -> None:
        self._root = root
        self._syncs = syncs
        # Guards _held, by key.
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def make(self, active: Active, parent_hold: Hold | None) -> Active:
        """Make the directory of ``active`` (its path is filled in). ``parent_hold`` is kept as long as it is held here.

        Raises AlreadyExistsError where the key is taken, OSError."""
        place = self._place(active.key)
        with contextlib.ExitStack() as undo:
            writing = undo.enter_context(self._syncs.begin())
            hold = undo.enter_context(self._claim_new(place, active.key))
            undo.callback(_remove_quietly, place)
            made = replace(active, path=_tree(place))
            make_directory(made.path.parent)
            os.mkdir(made.path)
            os.chmod(made.path, _ROOT_MODE)
            self._record(made)
            undo.pop_all()
        with self._lock:
            self._held[active.key] = _Held([hold, *([parent_hold] if parent_hold else [])], writing)
        return made

    def _claim_new(self, place: Path, key: str) -> Hold:
        while True:
            make_directory(place)
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as undo:
                hold = Hold.take(place, exclusive=True)
                # Free and without a record: we made it, or somebody died between making it and writing that.
                if hold is not None and not os.listdir(undo.enter_context(hold).fd):
                    undo.pop_all()
                    return hold
                raise AlreadyExistsError(f"the snapshot key {key!r} is taken: choose another, or remove it", key=key)
            # remove_dead took it for a dead one before we held it: make it again.

    def _record(self, active: Active) -> None:
        """Write ``active.json``, replacing it in one step. Raises OSError."""
        place = self._place(active.key)
        document = {
            "key": active.key,
            "parent": active.parent,
            "target": active.target,
            "labels": dict(active.labels),
            "created_at": active.created_at,
        }
        path = f"{place}/{_RECORD}"
        # Somebody's own work must be told from scratch after a power cut too.
        replace_file(path, f"{path}.new", json.dumps(document).encode("ascii"), sync=active.target is None)

    def get(self, key: str) -> Active | None:
        """The active snapshot of this key, whoever made it."""
        return _read(self._place(key))

    def relabel(self, key: str, labels: Mapping[str, str | None]) -> Active:
        """Change labels; None takes one away. Raises SnapshotNotFoundError, OSError."""
        active = self.get(key)
        if active is None:
            raise _missing(key)
        active = replace(active, labels=changed_labels(active.labels, labels))
        self._record(active)
        return active

    def list(self) -> Iterator[Active]:
        """All of them, in no order that means anything."""
        for place in sorted(self._root.iterdir()) if self._root.is_dir() else []:
            active = _read(place)
            if active is not None:
                yield active

    @contextlib.contextmanager
    def held(self, key: str) -> Iterator[tuple[Active, Writing]]:
        """The active snapshot, held by this call alone. When the block ends well, what is left of it is removed and the
        key is free; when it raises, all is as before. Raises SnapshotNotFoundError, or
        SnapshotInUseError where another thread or process is at it, OSError."""
        with self._lock:
            kept = self._held.pop(key, None)
        place = self._place(key)
        held = kept or self._take(place, key)
        try:
            active = _read(place)
            if active is None:
                raise _missing(key)
            yield active, held.writing
            _remove(place)
        except BaseException:
            if kept:
                with self._lock:
                    self._held[key] = kept
            else:
                held.release()
            raise
        held.release()

    def _take(self, place: Path, key: str) -> _Held:
        try:
            hold = Hold.take(place, exclusive=True)
        except FileNotFoundError:
            raise _missing(key) from None
        if hold is None:
            raise SnapshotInUseError(
                f"the active snapshot {key!r} is being written by another thread or process", path=str(place)
            )
        with contextlib.ExitStack() as undo:
            undo.enter_context(hold)
            writing = self._syncs.begin()
            undo.pop_all()
        return _Held([hold], writing)

    def remove_dead(self) -> None:
        """Remove scratch whose process is gone. Raises OSError."""
        for place in sorted(self._root.iterdir()) if self._root.is_dir() else []:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                hold = Hold.take(place, exclusive=True)
                if hold is None:
                    continue
                with hold:
                    active = _read(place)
                    if active is None or active.target is not None:
                        remove_tree(place)

    def close(self) -> None:
        """Let go of all holds; the directories stay."""
        with self._lock:
            everything, self._held = self._held, {}
        for held in everything.values():
            held.release()

    def _place(self, key: str) -> Path:
        return self._root / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(place: Path) -> Active | None:
    try:
        document = json.loads((place / _RECORD).read_bytes())
        return Active(
            document["key"],
            _tree(place),
            document["parent"],
            document["target"],
            document["labels"],
            document["created_at"],
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (KeyError, TypeError, ValueError):
        # Cut short by a power cut: scratch is not synced. As good as not there.
        return None


def _remove(place: Path) -> None:
    """What a commit leaves is known: the record, in an empty directory. Anything else goes the long way."""
    try:
        os.unlink(f"{place}/{_RECORD}")
        os.rmdir(place)
    except OSError:
        remove_tree(place)


def _remove_quietly(place: Path) -> None:
    with contextlib.suppress(OSError):
        remove_tree(place)


def _tree(place: Path) -> Path:
    return place / "snapshot" / "fs"


def _missing(key: str) -> SnapshotNotFoundError:
    return SnapshotNotFoundError(f"there is no active snapshot {key!r}: prepare it first")
