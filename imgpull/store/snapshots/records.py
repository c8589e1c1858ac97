"""What is known about a snapshot: as a value, as ``journal.json`` in its directory, and as a row of the database.

The directory is the snapshot: it is there if and only if the snapshot is committed, since the rename that puts it
there is the commit. The row is what the database knows about it (labels that changed since, quick listing); a crash
between the two leaves a directory without a row, which is made again from ``journal.json`` when somebody asks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from imgpull.errors import StoreCorruptError
from imgpull.store.database import Connection, Row
from imgpull.store.snapshots.layer import Journal

__all__ = [
    "SnapshotInfo",
    "Usage",
    "changed_labels",
    "delete_row",
    "info_of_row",
    "inherited_labels",
    "read_document",
    "relabelled",
    "write_document",
    "write_row",
]

_VERSION = 1
_INHERITED_PREFIX = "containerd.io/snapshot/"
_INHERITED_NAME = "containerd.io/snapshot.ref"


@dataclass(frozen=True, slots=True)
class Usage:
    """What one snapshot itself takes, without its parents."""

    size_bytes: int
    """Lengths of its regular files, each inode once."""
    inodes: int


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot as the store knows it."""

    name: str
    """ChainID of a committed snapshot, key of an active one."""
    kind: Literal["active", "committed"]
    parent: str | None
    """Name of the snapshot below, None at the bottom."""
    labels: Mapping[str, str]
    created_at: str
    """RFC 3339, UTC."""
    size_bytes: int = 0
    """0 while it is active: :meth:`Snapshots.usage` measures."""
    inodes: int = 0
    diff_id: str | None = None
    """Digest of the layer's uncompressed tar, as this store computed it."""


def inherited_labels(annotations: Mapping[str, str]) -> dict[str, str]:
    """Those of a layer descriptor's annotations that its snapshot takes as labels, as containerd filters them."""
    return {
        key: value for key, value in annotations.items() if key.startswith(_INHERITED_PREFIX) or key == _INHERITED_NAME
    }


def changed_labels(labels: Mapping[str, str], change: Mapping[str, str | None]) -> dict[str, str]:
    """``labels`` with ``change`` applied: None takes a label away."""
    merged = {**labels, **change}
    return {key: value for key, value in merged.items() if value is not None}


# -- journal.json ----------------------------------------------------------------------------------------------------


def write_document(path: Path, info: SnapshotInfo, journal: Journal) -> None:
    """Write ``journal.json``; pure ASCII, so that no locale can spoil it. Raises OSError."""
    document = {
        "version": _VERSION,
        "chain_id": info.name,
        "parent": info.parent,
        "diff_id": info.diff_id,
        "created_at": info.created_at,
        "size_bytes": info.size_bytes,
        "inodes": info.inodes,
        "labels": dict(info.labels),
        **journal.to_json(),
    }
    content = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def read_document(path: Path, name: str) -> tuple[SnapshotInfo, Journal]:
    """Read it back. Raises FileNotFoundError, or StoreCorruptError for anything that is not what was written."""
    where = str(path)
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION or document["chain_id"] != name:
            raise ValueError(f"it is version {document['version']!r} of {document['chain_id']!r}")
        info = SnapshotInfo(
            name=name,
            kind="committed",
            parent=_optional_text(document["parent"]),
            labels=_labels(document["labels"]),
            created_at=str(document["created_at"]),
            size_bytes=int(document["size_bytes"]),
            inodes=int(document["inodes"]),
            diff_id=_optional_text(document["diff_id"]),
        )
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise StoreCorruptError(f"{where} is damaged ({error}): pull into a new store", path=where) from error
    return info, Journal.from_json(document, where)


def _optional_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"not text: {value!r}")
    return value


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"not a mapping: {value!r}")
    return {str(key): str(text) for key, text in value.items()}


# -- rows ------------------------------------------------------------------------------------------------------------


_COLUMNS = ("name", "kind", "parent", "diff_id", "directory", "size_bytes", "inodes", "created_at", "labels")
_WRITE_ROW = (
    f"INSERT INTO snapshots ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    f" ON CONFLICT (name) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in _COLUMNS[1:])}"
)


def write_row(connection: Connection, info: SnapshotInfo, *, unless_known: bool = False) -> None:
    """Record a committed snapshot. ``unless_known``: a row that is this snapshot's or a later one's, by the time
    at which it was made, may know what came since, and stays."""
    connection.execute(
        _WRITE_ROW + " WHERE snapshots.created_at < excluded.created_at" if unless_known else _WRITE_ROW,
        (
            info.name,
            info.kind,
            info.parent,
            info.diff_id,
            info.name.replace(":", "/", 1),
            info.size_bytes,
            info.inodes,
            info.created_at,
            json.dumps(dict(info.labels), sort_keys=True),
        ),
    )


def delete_row(connection: Connection, name: str) -> None:
    """Forget a snapshot."""
    connection.execute("DELETE FROM snapshots WHERE name = ?", (name,))


def info_of_row(row: Row | Mapping[str, Any]) -> SnapshotInfo:
    """The value a row stands for."""
    return SnapshotInfo(
        name=row["name"],
        kind=row["kind"],
        parent=row["parent"],
        labels=json.loads(row["labels"]),
        created_at=row["created_at"],
        size_bytes=row["size_bytes"] or 0,
        inodes=row["inodes"] or 0,
        diff_id=row["diff_id"],
    )


def relabelled(info: SnapshotInfo, change: Mapping[str, str | None]) -> SnapshotInfo:
    """The same snapshot with changed labels."""
    return replace(info, labels=changed_labels(info.labels, change))
