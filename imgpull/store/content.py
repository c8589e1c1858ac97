"""The content store: blobs by digest, and the ingests they grow from (containerd's ``core/content``).

Words
    *blob*     bytes named by their digest; complete, verified, never changing.
    *ref*      the caller's name for an ingest, ``layer-sha256:…``; one writer per ref and process.
    *ingest*   a blob on its way: a *partial* on the disk, and while it is being written a :class:`Writer`.

Nothing here waits for anybody. A ref that is being written is refused at once; who wants to wait does so at a keyed
lock, outside, where waiting costs nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from imgpull.errors import AlreadyExistsError, ContentNotFoundError, RefLockedError, StoreError, StoreFullError
from imgpull.locking import Cancellation
from imgpull.oci import Digest, FrozenMap
from imgpull.store.blob_writer import Writer, new_writer
from imgpull.store.blobs import Blobs
from imgpull.store.database import Connection, Database, Row
from imgpull.store.filesystem import fault, translated
from imgpull.store.following import Follower, IngestEnded, Waiting, follow
from imgpull.store.ingest import Ingest, Ingests, LiveRefs, Record, Status, utc_now

__all__ = ["ContentStore", "Follower", "Info", "IngestEnded", "Status", "Waiting", "Writer", "write_diff_id"]

_logger = logging.getLogger("imgpull.store")

_LABEL_BYTES = 4096
"""Key and value together (containerd's ``pkg/labels``)."""
_COLUMNS = "digest, size_bytes, created_at, updated_at, labels"
_INSERT = f"INSERT INTO blobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"
_REPLACE = (
    "(digest) DO UPDATE SET size_bytes = excluded.size_bytes, created_at = excluded.created_at, "
    "updated_at = excluded.updated_at, labels = excluded.labels"
)


@dataclass(frozen=True, slots=True)
class Info:
    """What the store knows about a blob. Times are UTC."""

    digest: Digest
    size_bytes: int
    created_at: datetime
    updated_at: datetime
    labels: Mapping[str, str] = field(default_factory=FrozenMap)


class ContentStore:
    """The blobs of one store, for all threads. Made by :class:`~imgpull.Store`, as ``store.content``.

    Errors: ContentNotFoundError, AlreadyExistsError, RefLockedError, StoreFullError, StoreError.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        ingests: Ingests,
        live: LiveRefs,
        *,
        listed_changed: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """``live`` is shared by all handles on the store; ``listed_changed`` is called when a blob that an image needs
        was removed."""
        self.database = database
        self.blobs = blobs
        self._ingests = ingests
        self._live = live
        self._listed_changed = listed_changed
        self._now = now

    def __contains__(self, digest: str) -> bool:
        """Whether the blob is here. One lstat; the database is not asked."""
        return digest in self.blobs

    def open(self, digest: str) -> io.FileIO:
        """The blob, unbuffered, for reading. It stays readable when it is removed meanwhile."""
        return self.blobs.open(digest)

    def info(self, digest: str) -> Info:
        known = Digest(digest)
        stat = self.blobs.stat(known)
        rows = self.database.query(f"SELECT {_COLUMNS} FROM blobs WHERE digest = ?", (known,))
        return _info(known, stat.st_size, stat.st_mtime, rows[0] if rows else None)

    def walk(self) -> Iterator[Info]:
        """Every blob that is here, in no order."""
        rows = {row["digest"]: row for row in self.database.query(f"SELECT {_COLUMNS} FROM blobs")}
        for digest, stat in self.blobs.walk():
            yield _info(digest, stat.st_size, stat.st_mtime, rows.get(digest))

    def update(self, digest: str, labels: Mapping[str, str | None]) -> Info:
        """Set these labels and leave the others; None (or empty) removes one."""
        info = self.info(digest)
        _check_labels(labels)

        def change(connection: Connection) -> Info:
            row = connection.execute(f"SELECT {_COLUMNS} FROM blobs WHERE digest = ?", (info.digest,)).fetchone()
            now = _info(info.digest, info.size_bytes, info.created_at.timestamp(), row)
            kept = {key: value for key, value in {**now.labels, **labels}.items() if value}
            return _record(connection, Info(info.digest, info.size_bytes, now.created_at, self._now(), FrozenMap(kept)))

        return self.database.write(change)

    def remove(self, digest: str) -> None:
        """Forget the blob, then delete its file. The caller holds the blob's key, or knows that nobody fetches it."""
        self.database.check_writable()
        known = Digest(digest)
        self.blobs.stat(known)
        listed = self.database.write(lambda connection: _forget(connection, known))
        self.blobs.remove(known)
        if listed:
            self._listed_changed()

    def drop(self, *digests: str) -> bool:
        """Remove blobs of layers that are unpacked, those that no image record keeps; whether all of them are gone.

        Decided and done in one write of its own: a record that keeps a blob comes before it, and the blob stays, or
        after it, and is refused by :meth:`Images.put`. Who is about to read one finds it missing, and fetches it again.
        """
        self.database.check_writable()
        here: list[Digest] = []
        with contextlib.ExitStack() as opened:  # until the write has ended: so long the kernel frees no pages
            for digest in map(Digest, digests):
                with contextlib.suppress(ContentNotFoundError):
                    opened.enter_context(self.blobs.open(digest))
                    here.append(digest)
            # Alone, as nothing brings a file back: a record that went in the same transaction would, if that is lost.
            return not here or self.database.write(lambda connection: self._drop(connection, here), alone=True)

    def _drop(self, connection: Connection, digests: Sequence[Digest]) -> bool:
        doomed = [digest for digest in digests if not _is_kept(connection, digest)]
        for digest in doomed:
            # In the write, not after it: nobody else could write in between. A crash before its end leaves a row
            # without a file, which says nothing: a blob is here when its file is.
            with contextlib.suppress(ContentNotFoundError):
                self.blobs.remove(digest)
            _forget(connection, digest)
        return len(doomed) == len(digests)

    # Ingests

    def writer(self, ref: str, *, expected: str | None = None, total_bytes: int | None = None) -> Writer:
        """Open the writer of ``ref``; where a dead partial of the same ref, digest and size is found, it goes on there.

        Raises RefLockedError at once where the ref has a writer in this process, AlreadyExistsError where ``expected``
        is here. Other processes are not asked: each writes a file of its own, and the first to commit wins.
        """
        self.database.check_writable()
        if not ref:
            raise StoreError("an ingest needs a ref that is not empty")
        record = Record(ref, total_bytes, None if expected is None else Digest(expected), self._now())
        if record.expected is not None and record.expected in self.blobs:
            raise AlreadyExistsError(f"the blob {expected} exists already", key=record.expected)
        self._live.claim(ref)
        try:
            writer = self._open_writer(record)
            self._live.fill(ref, writer)
        except BaseException as error:
            self._live.release(ref)
            if isinstance(error, OSError):
                found = fault(error, "begin an ingest in", self._ingests.directory)
                raise found from (None if found is error else error)
            raise
        return writer

    def _open_writer(self, record: Record) -> Writer:
        dead = self._ingests.dead_of_ref(record.ref)
        try:
            for partial in dead:
                if partial.record is not None and partial.record.agrees_with(record):
                    try:
                        return self._adopt(record, partial)
                    except OSError as error:
                        if isinstance(fault(error, "adopt", partial.path), StoreFullError):
                            raise
                        # A partial that can't be read is worth less than the connection it saves.
                        _logger.info("the partial %s is given up: %s", partial.path, error)
            return new_writer(self, self._ingests.create(record), record, None)
        finally:
            for partial in dead:
                partial.drop()

    def _adopt(self, record: Record, partial: Ingest) -> Writer:
        assert partial.record is not None
        ingest = self._ingests.create(partial.record)  # with the time at which it really began
        try:
            return new_writer(self, ingest, partial.record, partial)
        except BaseException:
            ingest.drop()
            raise

    def commit_writer(
        self, writer: Writer, size_bytes: int | None, expected: Digest | None, labels: Mapping[str, str] | None
    ) -> Info:
        """What :meth:`Writer.commit` does: verify, publish the file, record it. No sync happens in the transaction."""
        _check_labels(labels or {})
        digest = writer.verify(size_bytes, expected)
        writer.publish(digest)
        self._ingests.drop_of_digest(digest)
        now = self._now()
        info = Info(digest, writer.offset_bytes, now, now, FrozenMap(labels))
        if labels:
            return self.database.write(lambda connection: _record(connection, info))
        self.database.ride(lambda connection: self._record_arrival(connection, info))  # without labels the file says it
        return info

    def _record_arrival(self, connection: Connection, info: Info) -> None:
        """The row of a blob that came, unless it went again; a row that another process wrote since stays."""
        if info.digest in self.blobs:
            connection.execute(f"{_INSERT} ON CONFLICT {_REPLACE} WHERE updated_at < excluded.updated_at", _row(info))

    def writer_closed(self, writer: Writer) -> None:
        """Called once by every writer, when its ref is free again."""
        self._live.release(writer.ref)

    def follow(
        self, ref: str, cancel: Cancellation | None = None, *, waiting: Waiting | None = None
    ) -> Follower | None:
        """A reader of the ingest that is being written under ``ref`` in this process, from its first byte; None where
        there is none (yet, or any more). Close it. ``waiting()`` is entered for as long as it waits, and no longer."""
        writer = self._live.get(ref)
        if writer is None:
            return None
        with translated("follow", writer.path):
            return follow(writer, cancel, waiting)

    def status(self, ref: str) -> Status:
        """How far the ingest of ``ref`` is: the one being written here, else the longest on the disk.

        Raises ContentNotFoundError where there is none."""
        writer = self._live.get(ref)
        if writer is not None:
            return writer.status()
        with translated("list", self._ingests.directory):
            found = list(self._ingests.statuses(ref))
        if not found:
            raise ContentNotFoundError(f"there is no ingest {ref}", path=self._ingests.directory)
        return max(found, key=lambda status: status.offset_bytes)

    def statuses(self) -> list[Status]:
        """One for every ref, the longest, in the order of refs."""
        longest: dict[str, Status] = {}
        with translated("list", self._ingests.directory):
            for status in self._ingests.statuses():
                if status.ref not in longest or longest[status.ref].offset_bytes < status.offset_bytes:
                    longest[status.ref] = status
        return [longest[ref] for ref in sorted(longest)]

    def abort(self, ref: str) -> None:
        """Remove the dead partials of ``ref``.

        Raises RefLockedError where it is being written, here or by another process; ContentNotFoundError."""
        self.database.check_writable()
        if ref in self._live:
            raise RefLockedError(f"the ingest {ref} is being written: close its writer first", ref=ref)
        with translated("abort", self._ingests.directory):
            dead = self._ingests.dead_of_ref(ref)
            for partial in dead:
                partial.drop()
            left = list(self._ingests.statuses(ref))
        if left:
            raise RefLockedError(f"the ingest {ref} is being written by another process: try again later", ref=ref)
        if not dead:
            raise ContentNotFoundError(f"there is no ingest {ref}", path=self._ingests.directory)

    # Diff IDs

    def diff_id(self, digest: str) -> Digest | None:
        """The digest of a layer's uncompressed tar, where this store once measured it."""
        rows = self.database.query("SELECT diff_id FROM diff_ids WHERE digest = ?", (Digest(digest),))
        return Digest(rows[0]["diff_id"]) if rows else None

    def record_diff_id(self, digest: str, diff_id: str) -> None:
        """Remember a diff ID that this process measured itself; never one that an image or a label claims."""
        self.database.ride(lambda connection: write_diff_id(connection, digest, diff_id))


def write_diff_id(connection: Connection, digest: str, diff_id: str) -> None:
    """:meth:`ContentStore.record_diff_id`, for a write that records more."""
    row = (Digest(digest), Digest(diff_id))
    connection.execute("INSERT OR REPLACE INTO diff_ids (digest, diff_id) VALUES (?, ?)", row)


def _record(connection: Connection, info: Info) -> Info:
    connection.execute(f"{_INSERT} ON CONFLICT {_REPLACE}", _row(info))
    return info


def _row(info: Info) -> tuple[object, ...]:
    created_at, updated_at = info.created_at.isoformat(), info.updated_at.isoformat()
    return info.digest, info.size_bytes, created_at, updated_at, json.dumps(dict(info.labels))


def _forget(connection: Connection, digest: Digest) -> bool:
    """Delete the row; whether an image rests on the blob, so that the layout must be written again."""
    connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
    if not _is_kept(connection, digest):
        return False
    connection.execute("UPDATE layout SET generation = generation + 1")
    return True


def _is_kept(connection: Connection, digest: Digest) -> bool:
    return connection.execute("SELECT 1 FROM image_blobs WHERE digest = ?", (digest,)).fetchone() is not None


def _info(digest: Digest, size_bytes: int, mtime: float, row: Row | None) -> Info:
    """From the row; from the file alone where a crash came between the two (the file is what counts)."""
    if row is None:
        when = datetime.fromtimestamp(mtime, UTC)
        return Info(digest, size_bytes, when, when)
    created, updated = datetime.fromisoformat(row["created_at"]), datetime.fromisoformat(row["updated_at"])
    return Info(digest, size_bytes, created, updated, FrozenMap(json.loads(row["labels"])))


def _check_labels(labels: Mapping[str, str | None]) -> None:
    for key, value in labels.items():
        if len(key.encode()) + len((value or "").encode()) > _LABEL_BYTES:
            raise StoreError(f"the label {key[:64]} is longer than {_LABEL_BYTES} bytes with its value: shorten it")
