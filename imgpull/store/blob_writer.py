"""Writing one blob: bytes in order, hashed as they come, committed on their digest or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from imgpull.errors import AlreadyExistsError, DigestMismatchError, SizeMismatchError, StoreError
from imgpull.oci import Digest
from imgpull.store.blobs import Blobs
from imgpull.store.filesystem import fault, translated
from imgpull.store.ingest import Ingest, Record, Status, status_of

if TYPE_CHECKING:
    from imgpull.oci.digest import Hasher
    from imgpull.store.content import Info

__all__ = ["Writer", "WriterOwner"]

_BLOCK_BYTES = 256 * 1024
"""Larger blocks gain nothing and cost memory per transfer."""


class WriterOwner(Protocol):
    """The content store, as its writers see it."""

    blobs: Blobs

    def commit_writer(
        self, writer: Writer, size_bytes: int | None, expected: Digest | None, labels: Mapping[str, str] | None
    ) -> Info: ...

    def writer_closed(self, writer: Writer) -> None: ...


class Writer:
    """One ingest being written, by one thread. Leaving its ``with`` block keeps what has arrived for the next writer.

    Life cycle: open → committed (the blob is there), dropped (wrong: nothing is left) or closed (the partial is left).
    """

    def __init__(self, owner: WriterOwner, ingest: Ingest, record: Record, hasher: Hasher, offset_bytes: int) -> None:
        self._owner = owner
        self._ingest = ingest
        self._record = record
        self._hasher = hasher
        self.ref = record.ref
        self.expected = record.expected
        self.total_bytes = record.total_bytes
        self.offset_bytes = offset_bytes
        """How much has arrived; more than 0 at the start where a dead partial was adopted: ask for the rest only."""
        self.generation = 0
        """Counts restarts: bytes that were read from this ingest under an earlier generation mean nothing."""
        self.closed = False
        self.committed = False
        """Whether the blob is there; never without ``closed`` for long."""
        self.followed = False
        """Set by the first follower; until then nobody is woken, and a write costs what it always cost."""
        # Guards nothing: the figures above change before it is taken to wake those who wait for them.
        self.grown = threading.Condition()

    @property
    def path(self) -> str:
        """The file that is being written."""
        return self._ingest.path

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of ``data`` and return its length.

        Raises SizeMismatchError before more than ``total_bytes`` are stored, StoreFullError, StoreError. After an error
        ``offset_bytes`` still says what is in the file and in the digest.
        """
        self._check()
        size = len(data)
        if self.total_bytes is not None and self.offset_bytes + size > self.total_bytes:
            raise SizeMismatchError(
                f"the blob {self.expected or self.ref} is longer than the {self.total_bytes} bytes its descriptor says",
                expected=self.total_bytes,
                actual=self.offset_bytes + size,
            )
        try:
            written = os.write(self._ingest.fd, data)
            if written == size:
                self._hasher.update(data)
                self.offset_bytes += size
            else:
                self._write_rest(memoryview(data), written)
        except OSError as error:
            raise fault(error, "write", self._ingest.path) from error
        if self.followed:
            self.wake_followers()
        return size

    def _write_rest(self, data: memoryview, written: int) -> None:
        # A short write is how a disk that is filling up looks before the error (or a signal, on some file systems).
        while True:
            self._hasher.update(data[:written])
            self.offset_bytes += written
            data = data[written:]
            if not data:
                return
            written = os.write(self._ingest.fd, data)

    def restart(self) -> None:
        """Throw away what has arrived and begin at the first byte, one generation later; dropped on StoreError."""
        self._check()
        # In this order: a follower of the old generation looks at it after it has read, and one of the new generation
        # never sees the old watermark.
        self.offset_bytes = 0
        self.generation += 1
        try:
            with translated("truncate", self._ingest.path):
                os.ftruncate(self._ingest.fd, 0)
                os.lseek(self._ingest.fd, 0, os.SEEK_SET)
        except StoreError:
            self.drop()
            raise
        self._hasher = _new_hasher(self.expected)
        self.wake_followers()

    def wake_followers(self) -> None:
        """Let every follower look again."""
        with self.grown:
            self.grown.notify_all()

    def digest(self) -> Digest:
        """The digest of what has arrived so far; after a commit, the blob's."""
        return Digest.from_hasher(self._hasher)

    def status(self) -> Status:
        """Raises StoreError once the writer is closed."""
        self._check()
        with translated("look at", self._ingest.path):
            return status_of(self._record, self._ingest.stat())

    def commit(
        self,
        size_bytes: int | None = None,
        expected: Digest | None = None,
        *,
        labels: Mapping[str, str] | None = None,
    ) -> Info:
        """Make the blob. Both arguments default to what the writer was opened with. The writer is closed afterwards,
        however it went.

        Raises SizeMismatchError (too short: the partial stays, the rest may still come; too long: it is dropped),
        DigestMismatchError (dropped, so that the next writer begins at zero instead of failing again: containerd issue
        3974), AlreadyExistsError (dropped; as good as success), StoreFullError, StoreError.
        """
        self._check()
        try:
            return self._owner.commit_writer(self, size_bytes, expected, labels)
        finally:
            self.close()

    def verify(self, size_bytes: int | None, expected: Digest | None) -> Digest:
        """The digest under which the blob may be published; the first half of a commit."""
        wanted = self.total_bytes if size_bytes is None else size_bytes
        if wanted is not None and wanted != self.offset_bytes:
            if self.offset_bytes > wanted:
                self.drop()
            raise SizeMismatchError(
                f"the blob {expected or self.expected or self.ref} has {self.offset_bytes} bytes, "
                f"its descriptor says {wanted}",
                expected=wanted,
                actual=self.offset_bytes,
            )
        expected = expected or self.expected
        actual = self._digest_as(expected)
        if expected is not None and actual != expected:
            self.drop()
            raise DigestMismatchError(
                f"the digest of what arrived is {actual}, not {expected}: it was thrown away; if it happens again the "
                "registry, or a proxy before it, serves wrong bytes",
                expected=expected,
                actual=actual,
            )
        return actual

    def publish(self, digest: Digest) -> None:
        """Make the verified file a blob; the second half of a commit. The partial is gone afterwards, however it went:
        a file that could not be synced must not be tried again (its pages count as clean and may be lost)."""
        try:
            self._owner.blobs.add(digest, self._ingest.path, self._ingest.fd, self.offset_bytes)
            self.committed = True
        except AlreadyExistsError:
            self.committed = True  # these bytes are that blob's, whoever stored it
            raise
        finally:
            self.drop()

    def drop(self) -> None:
        """Close, leaving nothing behind. A second call does nothing."""
        self._end(self._ingest.drop)

    def close(self) -> None:
        """Close, leaving the partial to the next writer of this ref. A second call does nothing.

        It is not synced: whoever adopts it hashes it again, and bytes a power cut took are noticed by the digest."""
        self._end(self._ingest.keep if self.offset_bytes else self._ingest.drop)

    def _end(self, finish: Callable[[], None]) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            finish()
        finally:
            self._owner.writer_closed(self)
            self.wake_followers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self) -> None:
        if self.closed or self._ingest.fd < 0:
            raise StoreError(f"the writer of {self.ref} is closed: open another", path=self._ingest.directory)

    def _digest_as(self, expected: Digest | None) -> Digest:
        """The digest in the algorithm that is expected, which may be another than the one counted while writing."""
        if expected is None or expected.algorithm == self._hasher.name:
            return self.digest()
        hasher, offset = expected.hasher(), 0
        with translated("read", self._ingest.path):
            while block := os.pread(self._ingest.fd, _BLOCK_BYTES, offset):
                hasher.update(block)
                offset += len(block)
        return Digest.from_hasher(hasher)


def new_writer(owner: WriterOwner, ingest: Ingest, record: Record, dead: Ingest | None) -> Writer:
    """A writer on an empty ``ingest``, or one that goes on where ``dead`` ended: its bytes are copied and hashed again.

    Raises OSError from the copy; the caller drops ``ingest`` then."""
    hasher, offset = _new_hasher(record.expected), 0
    if dead is not None:
        while block := os.pread(dead.fd, _BLOCK_BYTES, offset):
            view = memoryview(block)
            while view:
                written = os.write(ingest.fd, view)
                hasher.update(view[:written])
                offset += written
                view = view[written:]
        os.utime(ingest.fd, ns=(dead.stat().st_mtime_ns,) * 2)  # Status.updated_at: when bytes last arrived
    return Writer(owner, ingest, record, hasher, offset)


def _new_hasher(expected: Digest | None) -> Hasher:
    return (expected or Digest.of_bytes(b"")).hasher()
