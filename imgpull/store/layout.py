"""``oci-layout`` and ``index.json``: what makes the store an OCI image layout that other tools can read.

Both are derived. ``index.json`` is written again after every change of what it shows, by rename, under a lock of its
own, and at open where it is behind the database: each state of the database that matters has a *generation*, and the
file says which one it was made from. It is not synced: a power cut can cost nothing but the next open's rewriting.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from dataclasses import dataclass

from imgpull.errors import ImageError, StoreError
from imgpull.oci import Digest, Manifest, Platform
from imgpull.store.blobs import Blobs
from imgpull.store.database import Database, Row
from imgpull.store.filesystem import FileLock, replace_file, translated
from imgpull.store.platforms import platform_from_json, platform_to_json

__all__ = ["Layout"]

_logger = logging.getLogger("imgpull.store")

_GENERATION = "io.imgpull.generation"
_REF_NAME = "org.opencontainers.image.ref.name"  # image-spec annotations.md; skopeo, umoci and crane look it up
_IMAGE_NAME = "io.containerd.image.name"  # what containerd and docker load look up
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'  # image-spec image-layout.md


@dataclass(frozen=True, slots=True)
class _Summary:
    media_type: str
    size_bytes: int
    blobs: tuple[Digest, ...]


class Layout:
    """Writes the two files below ``root``; one object for all handles on the store in this process."""

    def __init__(self, root: str, database: Database, blobs: Blobs) -> None:
        self._root = root
        self._database = database
        self._blobs = blobs
        self._file_lock = FileLock(f"{root}/index.lock")
        # Guards _file_lock, which excludes other processes but not threads, and _summaries. Files are written under
        # it: that is what it is for, and nobody who pulls waits for it before the pull's own work is done.
        self._lock = threading.Lock()
        self._summaries: dict[Digest, _Summary | None] = {}

    def ensure(self) -> None:
        """At open: make what is missing or behind. Raises StoreError."""
        with self._lock, self._file_lock:
            if not os.path.exists(f"{self._root}/oci-layout"):
                self._replace("oci-layout", _LAYOUT)
            self._write_if_behind()

    def refresh(self) -> None:
        """After a commit that changed what ``index.json`` shows. A failure is logged and made good at the next open."""
        try:
            with self._lock, self._file_lock:
                self._write_if_behind()
        except StoreError as error:
            _logger.info("index.json is left behind: %s", error)

    def close(self) -> None:
        with self._lock:
            self._file_lock.close()

    def _write_if_behind(self) -> None:
        # Read before the images: what is newer than this generation is written once more, what is older never.
        generation = int(self._database.query("SELECT generation FROM layout")[0]["generation"])
        if self._written_generation() >= generation:
            return
        # An image whose layers may be dropped at any moment is not listed even while they are here.
        rows = self._database.query(
            "SELECT reference, platform, platform_fields, manifest_digest FROM images "
            "WHERE content != 'drop' OR NOT unpacked ORDER BY reference, platform"
        )
        host = str(Platform.host().normalised)
        # A tool that finds a name twice takes the first, so this machine's platform comes first.
        rows.sort(key=lambda row: (row["reference"], row["platform"] != host))
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry for row in rows if (entry := self._entry(row)) is not None],
            "annotations": {_GENERATION: str(generation)},
        }
        self._replace("index.json", json.dumps(index, indent=1).encode())

    def _written_generation(self) -> int:
        path = f"{self._root}/index.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError), open(path, "rb") as file:
            return int(json.loads(file.read())["annotations"][_GENERATION])
        return -1

    def _entry(self, row: Row) -> dict[str, object] | None:
        """The descriptor of one image; None unless all its blobs are here."""
        digest = Digest(row["manifest_digest"])
        if digest not in self._blobs:
            return None
        if digest not in self._summaries:
            self._summaries[digest] = self._summarise(digest)
        summary = self._summaries[digest]
        if summary is None or not all(blob in self._blobs for blob in summary.blobs):
            return None
        return {
            "mediaType": summary.media_type,
            "digest": digest,
            "size": summary.size_bytes,
            "platform": platform_to_json(platform_from_json(row["platform_fields"])),
            "annotations": {_REF_NAME: row["reference"], _IMAGE_NAME: row["reference"]},
        }

    def _summarise(self, digest: Digest) -> _Summary | None:
        try:
            with self._blobs.open(digest) as file:
                manifest = Manifest.parse(file.readall(), algorithm=digest.algorithm)
        except (ImageError, StoreError) as error:
            _logger.info("image %s is not listed: %s", digest, error)
            return None
        blobs = (manifest.config.digest, *(layer.digest for layer in manifest.layers))
        return _Summary(manifest.media_type, len(manifest.raw), blobs)

    def _replace(self, name: str, raw: bytes) -> None:
        path = f"{self._root}/{name}"
        with translated("write", path):
            # A fixed name, as the lock is ours: a crash leaves one such file at most, and the next time takes it.
            replace_file(path, f"{path}.new", raw, 0o644)
