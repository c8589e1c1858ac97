"""Reading a blob while it is being written: what makes a layer unpack while it arrives.

A *follower* reads the file of a live ingest up to the writer's *watermark*, the ``offset_bytes`` below which every byte
has arrived. The page cache is the buffer, so memory is constant however far apart the two are, and a follower that
does not read holds nobody up.

The writer changes its figures first and wakes second; a follower looks at them under the lock that waking takes. So
no wake-up is lost, though the figures themselves are read without a lock.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Self

from imgpull.locking import Cancellation

if TYPE_CHECKING:
    from imgpull.store.blob_writer import Writer

__all__ = ["Follower", "IngestEnded", "Waiting"]

Waiting = Callable[[], AbstractContextManager[None]]
"""Entered while a follower really waits, and left before it reads on: where its user lends what he holds meanwhile."""


class IngestEnded(Exception):  # noqa: N818  # no error of ours: the transfer's verdict is
    """The bytes that were read will not become this blob: the writer began again, or ended without a commit.

    Never seen by users of the library. The reader throws away what it made of the bytes, and asks the fetch for its
    verdict: that is the error to raise, or the news that the blob is here or arrives again.
    """


class Follower:
    """One reader of a live ingest, from its first byte; for one thread. Made by ``ContentStore.follow``.

    Its end is the blob's end: 0 is returned only once the blob is committed, so whoever has seen it has read bytes
    whose digest held.
    """

    def __init__(self, writer: Writer, file: io.FileIO, cancel: Cancellation, waiting: Waiting) -> None:
        self._writer = writer
        self._file = file
        self._cancel = cancel
        self._waiting = waiting
        self._offset_bytes = 0
        self._generation = writer.generation
        self._forget_wake = cancel.add_callback(writer.wake_followers)

    @property
    def committed(self) -> bool:
        """Whether the blob is there, and what was read is its beginning."""
        return self._writer.committed and self._writer.generation == self._generation

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill some of ``buffer``, which is not empty; 0 at the end. Waits for as long as there is nothing to read.

        Raises IngestEnded, PullCancelledError, OSError.
        """
        if not self._can_read():
            with self._waiting():
                self._wait()
        arrived_bytes = self._writer.offset_bytes - self._offset_bytes
        count = 0
        if arrived_bytes > 0:
            count = os.preadv(self._file.fileno(), [buffer[:arrived_bytes]], self._offset_bytes)
        # Asked after the bytes were read: a writer that begins again says so before it touches them.
        if self._has_failed() or (count == 0 and not self._writer.committed):
            raise IngestEnded(f"the ingest {self._writer.ref} ended or began again")
        self._offset_bytes += count
        return count

    def close(self) -> None:
        """A second call does nothing."""
        self._forget_wake()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wait(self) -> None:
        with self._writer.grown:
            self._writer.grown.wait_for(lambda: self._cancel.cancelled or self._can_read())
        self._cancel.raise_if_cancelled()

    def _can_read(self) -> bool:
        return self._writer.offset_bytes > self._offset_bytes or self._writer.closed or self._has_failed()

    def _has_failed(self) -> bool:
        writer = self._writer
        return writer.generation != self._generation or (writer.closed and not writer.committed)


def follow(writer: Writer, cancel: Cancellation | None, waiting: Waiting | None) -> Follower | None:
    """None where the writer has ended meanwhile."""
    writer.followed = True
    try:
        # A descriptor of its own, by name, which is never given to another file: the writer's could be closed, and
        # its number taken by another file, between our reading the number and duplicating it.
        fd = os.open(writer.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    return Follower(writer, io.FileIO(fd, "rb"), cancel or Cancellation(), waiting or nullcontext)
