"""The directory ``ingest/``: blobs that are not complete yet (*partials*), one directory each.

``<sha256(ref), 32 digits>-<expected digest, 16 digits>-<random>/`` holds ``data`` (what has arrived, from the first
byte on without gaps) and ``ref`` (JSON: whose it is and what it is to become). The name finds the partials of a ref and
those of a digest in one listing; what counts is what ``ref`` says.

A *live* partial has a writer, which holds a flock on ``data`` for as long as it lives, in whatever process. A *dead*
one can be locked by anybody. Whoever has the lock, and nobody else, may remove it. A dead partial is adopted by copying
its bytes, hashed again, into a new file: renaming or continuing it would put two writers on one inode if the first
turned out to live (huggingface_hub PR 4306).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from imgpull.errors import ImageError, RefLockedError, StoreError
from imgpull.oci import Digest
from imgpull.store.filesystem import FileLock, make_directory

if TYPE_CHECKING:
    from imgpull.store.blob_writer import Writer

__all__ = ["Ingest", "Ingests", "LiveRefs", "Record", "Status", "utc_now"]

_NO_DIGEST = "0" * 16
_ATTEMPTS = 10
"""A directory just made may look dead to somebody else before it is locked, and be removed: then make another."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """What ``ref`` says."""

    ref: str
    total_bytes: int | None
    expected: Digest | None
    started_at: datetime

    def agrees_with(self, other: Record) -> bool:
        """Whether both describe the same blob, as far as they say."""
        return (self.ref, self.total_bytes, self.expected) == (other.ref, other.total_bytes, other.expected)

    def to_json(self) -> bytes:
        fields = {
            "ref": self.ref,
            "total_bytes": self.total_bytes,
            "expected": self.expected,
            "started_at": self.started_at.isoformat(),
        }
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self | None:
        """None for a record that was cut off or is none."""
        try:
            fields = json.loads(raw)
            total, expected = fields["total_bytes"], fields["expected"]
            return cls(
                ref=str(fields["ref"]),
                total_bytes=None if total is None else int(total),
                expected=None if expected is None else Digest(expected),
                started_at=datetime.fromisoformat(fields["started_at"]),
            )
        except (ValueError, KeyError, TypeError, ImageError):
            return None


@dataclass(frozen=True, slots=True)
class Status:
    """How far an ingest is."""

    ref: str
    offset_bytes: int
    """What has arrived."""
    total_bytes: int | None
    expected: Digest | None
    started_at: datetime
    updated_at: datetime


class Ingest:
    """One partial whose lock this process has."""

    __slots__ = ("_lock", "directory", "record")

    def __init__(self, directory: str, lock: FileLock, record: Record | None) -> None:
        self.directory = directory
        self._lock = lock
        self.record = record

    @property
    def fd(self) -> int:
        """The open ``data``; -1 once closed."""
        return self._lock.fd

    @property
    def path(self) -> str:
        return self._lock.path

    def stat(self) -> os.stat_result:
        return os.fstat(self._lock.fd)

    def keep(self) -> None:
        """Close it and leave it on the disk: it is dead from here on."""
        self._lock.close()

    def drop(self) -> None:
        """Remove it, then close it. Nothing is raised: what can't be removed is removed by the next one."""
        _remove(self.directory)
        self._lock.close()


class Ingests:
    """The partials below ``directory``."""

    __slots__ = ("directory",)

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def create(self, record: Record) -> Ingest:
        """A new, empty partial, locked. Raises OSError, StoreError."""
        for _ in range(_ATTEMPTS):
            path = f"{self.directory}/{_prefix(record.ref)}-{_mark(record.expected)}-{os.urandom(8).hex()}"
            with contextlib.suppress(FileNotFoundError):
                make_directory(path)
                lock = FileLock.try_open(f"{path}/data", os.O_RDWR | os.O_CREAT | os.O_EXCL)
                # Whoever took it for dead between these two steps has removed the directory too, so that one of the
                # next finds it missing.
                if lock is not None:
                    return _described(Ingest(path, lock, record))
        raise StoreError(
            f"cannot begin an ingest in {self.directory}: somebody removes it at once", path=self.directory
        )

    def dead_of_ref(self, ref: str) -> list[Ingest]:
        """The dead partials of one ref, locked, longest first. The caller keeps or drops each."""
        prefix = _prefix(ref)
        return self._dead(lambda name: name.startswith(prefix), lambda record: record is None or record.ref == ref)

    def drop_of_digest(self, digest: Digest) -> None:
        """Remove every dead partial that was to become this blob, whoever began it. Nothing is raised: the blob is
        there, and what is left is removed another time."""
        mark = f"-{_mark(digest)}-"
        with contextlib.suppress(OSError):
            for ingest in self._dead(lambda name: mark in name, lambda record: _was_to_become(record, digest)):
                ingest.drop()

    def _dead(self, named: Callable[[str], bool], wanted: Callable[[Record | None], bool]) -> list[Ingest]:
        found: list[Ingest] = []
        for name in os.listdir(self.directory):
            if named(name) and (ingest := self._lock_dead(name)) is not None:
                if wanted(ingest.record):
                    found.append(ingest)
                else:
                    ingest.keep()
        return sorted(found, key=lambda ingest: ingest.stat().st_size, reverse=True)

    def _lock_dead(self, name: str) -> Ingest | None:
        directory = f"{self.directory}/{name}"
        try:
            lock = FileLock.try_open(f"{directory}/data", os.O_RDONLY)
        except FileNotFoundError:
            # What an interrupted removal left, or one that is being made and will begin again elsewhere. Only an empty
            # directory goes: in a moment there may be a live writer's data in it.
            with contextlib.suppress(OSError):
                os.rmdir(directory)
            return None
        except OSError:
            return None
        return None if lock is None else Ingest(directory, lock, _read_record(directory))

    def statuses(self, ref: str | None = None) -> Iterator[Status]:
        """What is on the disk, live and dead, of every process; of one ref, or all."""
        for name in os.listdir(self.directory):
            if ref is not None and not name.startswith(_prefix(ref)):
                continue
            record = _read_record(f"{self.directory}/{name}")
            with contextlib.suppress(OSError):
                data = os.stat(f"{self.directory}/{name}/data")
                if record is not None and ref in (None, record.ref):
                    yield status_of(record, data)


def status_of(record: Record, data: os.stat_result) -> Status:
    updated_at = datetime.fromtimestamp(data.st_mtime, UTC)
    return Status(record.ref, data.st_size, record.total_bytes, record.expected, record.started_at, updated_at)


class LiveRefs:
    """The refs that have a writer in this process, for all handles on one store.

    A table in memory and not in the database: to ask it costs nothing, a crash empties it, and nobody waits for a ref
    while holding the database's write lock (containerd issue 8790).
    """

    __slots__ = ("_lock", "_writers")

    def __init__(self) -> None:
        # Guards the dictionary; one operation at a time.
        self._lock = threading.Lock()
        self._writers: dict[str, Writer | None] = {}

    def claim(self, ref: str) -> None:
        """Raises RefLockedError at once where the ref has a writer."""
        with self._lock:
            if ref in self._writers:
                raise RefLockedError(f"the ingest {ref} has a writer already: wait for it, or try again", ref=ref)
            self._writers[ref] = None

    def fill(self, ref: str, writer: Writer) -> None:
        with self._lock:
            self._writers[ref] = writer

    def release(self, ref: str) -> None:
        with self._lock:
            self._writers.pop(ref, None)

    def get(self, ref: str) -> Writer | None:
        with self._lock:
            return self._writers.get(ref)

    def __contains__(self, ref: str) -> bool:
        with self._lock:
            return ref in self._writers

    def writers(self) -> list[Writer]:
        with self._lock:
            return [writer for writer in self._writers.values() if writer is not None]


def _prefix(ref: str) -> str:
    return hashlib.sha256(ref.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _mark(digest: Digest | None) -> str:
    return _NO_DIGEST if digest is None else digest.encoded[:16]


def _was_to_become(record: Record | None, digest: Digest) -> bool:
    return record is None or record.expected == digest


def _described(ingest: Ingest) -> Ingest:
    assert ingest.record is not None
    try:
        with open(f"{ingest.directory}/ref", "xb") as file:
            file.write(ingest.record.to_json())
    except BaseException:
        ingest.drop()
        raise
    return ingest


def _read_record(directory: str) -> Record | None:
    try:
        with open(f"{directory}/ref", "rb") as file:
            return Record.from_json(file.read(65536))
    except OSError:
        return None


def _remove(directory: str) -> None:
    for name in ("ref", "data"):
        with contextlib.suppress(OSError):
            os.unlink(f"{directory}/{name}")
    with contextlib.suppress(OSError):
        os.rmdir(directory)
