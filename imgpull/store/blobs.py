"""The directory ``blobs/`` of an OCI image layout: one read-only file per blob, named by its digest.

A blob is there when its file is there; nothing else decides that. The file appears complete and at once (a hard link
to an ingest that was verified and synced), and never changes afterwards.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator

from imgpull.errors import AlreadyExistsError, ContentNotFoundError, ImageError, StoreError
from imgpull.oci import Digest
from imgpull.store.durability import Sync
from imgpull.store.filesystem import fault, make_directory, translated

__all__ = ["Blobs"]

_MODE = 0o444
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Blobs:
    """The files below ``directory``. Any number of threads and processes may use it at once, without a lock."""

    __slots__ = ("_sync", "directory")

    def __init__(self, directory: str, sync: Sync) -> None:
        self.directory = directory
        self._sync = sync

    def path(self, digest: str) -> str:
        """Where the blob is, or would be. Raises InvalidImageError for a text that is no digest."""
        known = Digest(digest)
        return f"{self.directory}/{known.algorithm}/{known.encoded}"

    def __contains__(self, digest: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(self.path(digest)).st_mode)
        except OSError:
            return False

    def stat(self, digest: str) -> os.stat_result:
        """Raises ContentNotFoundError."""
        path = self.path(digest)
        try:
            return os.lstat(path)
        except OSError as error:
            raise _missing(error, "look at", path, digest) from error

    def open(self, digest: str) -> io.FileIO:
        """The blob, unbuffered, for reading. Raises ContentNotFoundError."""
        path = self.path(digest)
        try:
            return io.FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")
        except OSError as error:
            raise _missing(error, "open", path, digest) from error

    def add(self, digest: Digest, source: str, fd: int, size_bytes: int) -> None:
        """Publish the file ``source``, which ``fd`` has open and whose bytes were verified: synced, linked, synced.

        Raises AlreadyExistsError where the blob is there, StoreFullError, and StoreError; after a failed sync the
        caller must throw the file away.
        """
        target = self.path(digest)
        with translated("store", target):
            self._sync.data(fd)
            os.fchmod(fd, _MODE)
            # What is published is the inode whose bytes were counted and verified, whatever the path has become.
            held, named = os.fstat(fd), os.lstat(source)
            if (held.st_dev, held.st_ino, held.st_size) != (named.st_dev, named.st_ino, size_bytes):
                raise StoreError(f"{source} was changed by somebody else while it was written: try again", path=source)
            if make_directory(os.path.dirname(target)):
                self._sync.directory(self.directory)
            try:
                _link(source, target, digest)
            finally:
                self._sync.directory(os.path.dirname(target))  # also where another process linked it just now

    def remove(self, digest: str) -> None:
        """Raises ContentNotFoundError."""
        path = self.path(digest)
        try:
            os.unlink(path)
        except OSError as error:
            raise _missing(error, "remove", path, digest) from error

    def walk(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Every blob that is there, in no order. Files that are none are passed over."""
        with translated("list", self.directory):
            for algorithm in os.listdir(self.directory):
                for name in os.listdir(f"{self.directory}/{algorithm}"):
                    try:
                        digest = Digest.of(algorithm, name)
                        found = os.lstat(self.path(digest))
                    except (ImageError, FileNotFoundError):
                        continue
                    yield digest, found


def _link(source: str, target: str, digest: Digest) -> None:
    # Not a rename: link() fails where the name is taken, so a blob that somebody may be reading is never replaced.
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise AlreadyExistsError(f"the blob {digest} exists already", key=digest, path=target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(source, target)


def _missing(error: OSError, doing: str, path: str, digest: str) -> StoreError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return ContentNotFoundError(f"the blob {digest} is not in the store: pull its image again", path=path)
    return fault(error, doing, path)
