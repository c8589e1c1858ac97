"""One layer of a test image: a tar written with the standard library, compressed, both digests taken on the way.

``tarfile`` may write here; the library under test never reads with it, so a mistake in one is not hidden by the other.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Protocol, Self

__all__ = ["EPOCH", "BuiltLayer", "Compression", "LayerWriter", "parents_of"]

Compression = Literal["gzip", "zstd"]

EPOCH = 1_700_000_000
"""Modification time of everything that is made up here, so that an image built twice has one digest."""

_BLOCK = 1 << 20
_MEDIA_TYPES: Mapping[Compression, str] = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer's blob as it lies in the layout, and what its tar held."""

    digest: str
    diff_id: str
    media_type: str
    size_bytes: int
    tar_bytes: int
    entries: int
    comment: str


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressor(compression: Compression) -> _Compressor:
    if compression == "gzip":
        return zlib.compressobj(6, zlib.DEFLATED, 31)  # docker's level; 31: a gzip header, its time field zero
    from backports.zstd import ZstdCompressor

    return ZstdCompressor(level=3)


class _BlobSink:
    """The file object ``tarfile`` writes to: uncompressed bytes in, a compressed blob and two digests out."""

    def __init__(self, path: Path, compression: Compression) -> None:
        self._file = path.open("wb")
        self._compressor = _compressor(compression)
        self._diff_id = hashlib.sha256()
        self._digest = hashlib.sha256()
        self.tar_bytes = 0
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        if self._file.closed:  # abandoned: tarfile's stream still flushes when it is collected
            return len(data)
        self._diff_id.update(data)
        self.tar_bytes += len(data)
        self._emit(self._compressor.compress(data))
        return len(data)

    def _emit(self, data: bytes) -> None:
        self._digest.update(data)
        self.size_bytes += len(data)
        self._file.write(data)

    def finish(self) -> tuple[str, str]:
        """Flushes and returns ``(digest, diff_id)``."""
        self._emit(self._compressor.flush())
        self._file.close()
        return f"sha256:{self._digest.hexdigest()}", f"sha256:{self._diff_id.hexdigest()}"

    def abandon(self) -> None:
        self._file.close()


def parents_of(name: str) -> list[str]:
    """The directories above ``a/b/c``, topmost first: ``["a", "a/b"]``."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


class LayerWriter:
    """Writes one layer's tar into ``blobs`` (a layout's ``blobs/sha256``); a context manager.

    A directory entry is written once per layer however often it is added, as an overlay's diff has it. The blob is
    there once :meth:`finish` returned; leaving the ``with`` block before that leaves nothing behind.
    """

    def __init__(self, blobs: Path, compression: Compression, comment: str) -> None:
        self._blobs = blobs
        self._compression = compression
        self._comment = comment
        self._partial = blobs / f".partial-{os.getpid()}-{id(self):x}"
        self._sink = _BlobSink(self._partial, compression)
        # tarfile asks of a stream only that it can write; the stub wants a whole IO[bytes].
        stream: IO[bytes] = self._sink  # type: ignore[assignment]
        # Closed by finish(); without a finish its buffered rest is not wanted.
        self._tar = tarfile.open(mode="w|", fileobj=stream, bufsize=_BLOCK, format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._directories: set[str] = set()
        self._entries = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.abandon()
        self._partial.unlink(missing_ok=True)

    def add(self, member: tarfile.TarInfo, payload: IO[bytes] | None = None) -> None:
        """Adds one entry as it is described."""
        if member.isdir():
            if member.name in self._directories:
                return
            self._directories.add(member.name)
        self._tar.addfile(member, payload)
        self._entries += 1

    def directory(self, name: str, mode: int = 0o755, uid: int = 0) -> None:
        member = _member(name, tarfile.DIRTYPE, mode)
        member.uid = member.gid = uid
        self.add(member)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._parents(name)
        member = _member(name, tarfile.REGTYPE, mode)
        member.size = len(data)
        self.add(member, BytesIO(data))

    def symlink(self, name: str, target: str) -> None:
        self._parents(name)
        member = _member(name, tarfile.SYMTYPE, 0o777)
        member.linkname = target
        self.add(member)

    def hard_link(self, name: str, target: str) -> None:
        self._parents(name)
        member = _member(name, tarfile.LNKTYPE, 0o644)
        member.linkname = target
        self.add(member)

    def whiteout(self, name: str) -> None:
        """``name`` of a lower layer is gone (image-spec layer.md, "Whiteouts")."""
        directory, _, base = name.rpartition("/")
        self.file(f"{directory}/.wh.{base}" if directory else f".wh.{base}", b"", mode=0o600)

    def opaque(self, directory: str) -> None:
        """Of ``directory`` nothing of the lower layers shows (image-spec layer.md, "Opaque Whiteout")."""
        self.directory(directory)
        self.file(f"{directory}/.wh..wh..opq", b"", mode=0o600)

    def tree(self, source: Path, name: str, skip: Iterable[str] = ()) -> None:
        """Adds the real files below ``source`` as ``name``, in name order, less those called one of ``skip``."""
        skipped = frozenset(skip)
        self._parents(name)
        self.path(source, name)
        for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
            if entry.name in skipped:
                continue
            if entry.is_dir(follow_symlinks=False):
                self.tree(Path(entry.path), f"{name}/{entry.name}", skipped)
            else:
                self.path(Path(entry.path), f"{name}/{entry.name}")

    def path(self, source: Path, name: str) -> None:
        """Adds one real file, directory or symlink as ``name``: its mode and bytes; owner root, time :data:`EPOCH`."""
        self._parents(name)
        member = tarfile.TarInfo(name) if source.is_symlink() else self._tar.gettarinfo(str(source), arcname=name)
        if source.is_symlink():
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(source), 0o777
        elif not (member.isreg() or member.isdir()):
            if not member.islnk():
                return  # a socket or a FIFO that somebody left in the tree
            member.type, member.size, member.linkname = tarfile.REGTYPE, source.stat().st_size, ""
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = EPOCH
        if member.isreg():
            with source.open("rb") as payload:
                self.add(member, payload)
        else:
            self.add(member)

    def finish(self) -> BuiltLayer:
        """Ends the tar and publishes the blob under its digest."""
        self._tar.close()
        digest, diff_id = self._sink.finish()
        os.replace(self._partial, self._blobs / digest.removeprefix("sha256:"))
        return BuiltLayer(
            digest=digest,
            diff_id=diff_id,
            media_type=_MEDIA_TYPES[self._compression],
            size_bytes=self._sink.size_bytes,
            tar_bytes=self._sink.tar_bytes,
            entries=self._entries,
            comment=self._comment,
        )

    def _parents(self, name: str) -> None:
        for parent in parents_of(name):
            if parent not in self._directories:
                self.directory(parent)


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = kind, mode, EPOCH
    member.uname = member.gname = "root"
    return member
