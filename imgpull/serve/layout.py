"""Reads an OCI image layout for the server: blobs as open files, manifests as documents (image-layout.md)."""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imgpull import oci
from imgpull.errors import ImageError, InvalidImageError, StoreError
from imgpull.limits import Limits
from imgpull.oci import strict_json
from imgpull.serve.names import Names, is_repository, read_names

__all__ = ["Blob", "Document", "LayoutReader"]

_log = logging.getLogger("imgpull.serve")

_INDEX_BYTES = 64 * 1024 * 1024
"""index.json grows with the store, by about 400 bytes an image."""

_REMEMBERED = 4096
"""Media types of documents that had to be parsed to learn them; under 1 MB when full."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hang the server
_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Blob:
    """An open file of the layout."""

    fd: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index, as it is sent."""

    media_type: str
    digest: oci.Digest
    raw: bytes


class LayoutReader:
    """The layout in ``root``, whose directory it holds open; many threads may use it at once.

    Symbolic links below the root are not followed: a layout out of a stranger's archive can't lead out of it.
    Raises StoreError when ``root`` can't be opened and InvalidImageError when it is no layout.
    """

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self.root = root
        self._own_name = _own_name(root)
        self._limits = limits or Limits()
        # Guards the three below, which change together.
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._names = Names()
        self._media_types: dict[oci.Digest, str] = {}
        try:
            self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(f"can't open the image layout {root}: {error.strerror}", path=str(root)) from None
        try:
            self._check_version()
            self.names()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory. A second call changes nothing."""
        fd, self._root_fd = self._root_fd, -1
        if fd >= 0:
            os.close(fd)

    def _check_version(self) -> None:
        with self._top("oci-layout") as file:
            document = strict_json.loads(_read(file, 4096), "oci-layout")
        version = document.get("imageLayoutVersion") if isinstance(document, dict) else None
        if version != "1.0.0":
            raise InvalidImageError(f"{self.root}: image layout version {version!r} is not known; 1.0.0 is")

    @contextmanager
    def _top(self, name: str) -> Iterator[Blob]:
        file = _open_regular(name, self._root_fd)
        if file is None:
            raise InvalidImageError(f"{self.root} is no OCI image layout: it has no file {name}")
        try:
            yield file
        finally:
            os.close(file.fd)

    def names(self) -> Names:
        """What ``index.json`` says now: read again when it changed. One that can't be read any more (another tool is
        writing it in place) leaves the last good one in force; the first must be good."""
        with self._lock, self._top("index.json") as file:
            status = os.fstat(file.fd)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                try:
                    self._names = read_names(_read(file, _INDEX_BYTES), self._own_name)
                except ImageError as error:
                    if self._seen is None:
                        raise InvalidImageError(f"{self.root}: {error}") from None
                    _log.info("%s: %s; what it said before goes on", self.root, error)
                self._seen = seen
            return self._names

    @contextmanager
    def blob(self, digest: oci.Digest) -> Iterator[Blob | None]:
        """The blob as an open file, or None where the layout does not have it."""
        file = self._open_blob(digest)
        try:
            yield file
        finally:
            if file is not None:
                os.close(file.fd)

    def _open_blob(self, digest: oci.Digest) -> Blob | None:
        held: list[int] = []
        try:
            parent = self._root_fd
            for name in ("blobs", digest.algorithm):
                parent = os.open(name, _DIRECTORY, dir_fd=parent)
                held.append(parent)
            return _open_regular(digest.encoded, parent)
        except OSError:
            return None
        finally:
            for fd in held:
                os.close(fd)

    def document(self, digest: oci.Digest) -> Document | None:
        """The manifest or index with this digest, or None: not here, or not one of these."""
        names = self.names()
        raw = names.composed.get(digest) or self._read_blob(digest)
        if raw is None:
            return None
        media_type = names.media_types.get(digest) or self._media_types.get(digest)
        if media_type is None:
            try:
                media_type = oci.parse_document(raw).media_type
            except ImageError:
                return None
            self._remember(digest, media_type)
        return Document(media_type, digest, raw)

    def _read_blob(self, digest: oci.Digest) -> bytes | None:
        with self.blob(digest) as file:
            if file is None or file.size_bytes > self._limits.manifest_bytes:
                return None
            return _read(file, self._limits.manifest_bytes)

    def _remember(self, digest: oci.Digest, media_type: str) -> None:
        with self._lock:
            if len(self._media_types) >= _REMEMBERED:
                self._media_types.clear()
            self._media_types[digest] = media_type


def _open_regular(name: str, parent_fd: int) -> Blob | None:
    try:
        fd = os.open(name, _FILE, dir_fd=parent_fd)
    except OSError:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return Blob(fd, status.st_size)


def _read(file: Blob, limit_bytes: int) -> bytes:
    if file.size_bytes > limit_bytes:
        raise InvalidImageError(f"a document of {file.size_bytes} bytes is over the limit of {limit_bytes}")
    with os.fdopen(os.dup(file.fd), "rb") as reader:
        return reader.read(limit_bytes)


def _own_name(root: Path) -> str:
    """The directory's name as a repository name."""
    name = re.sub(r"[^a-z0-9]+", "-", root.resolve().name.lower()).strip("-")
    return name if is_repository(name) else "layout"
