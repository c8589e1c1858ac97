"""Layer blob → uncompressed tar, in constant memory (image-spec layer.md: tar, tar+gzip, tar+zstd).

What the bytes are is decided by their first ones, as containerd does, and not by the media type: registries hold
layers whose type lies. All gzip members and all zstd frames are read: a reader that stops at the
first one sees another archive than everybody else. No subprocess ever decompresses (CVE-2026-41567).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from imgpull.errors import InvalidArchiveError, LimitExceededError
from imgpull.limits import Limits
from imgpull.unpack.inflate import GzipHeader, Inflater, inflater

__all__ = ["Compression", "Decompressed", "Readable", "decompressed"]

Compression = Literal["gzip", "zstd", "none"]

_BLOCK_BYTES = 256 * 1024
"""1 MiB of inflate input costs 69 MB of RSS and wins nothing."""
_FIRST_PIECE_BYTES = 1024
_MAGIC_BYTES = 10
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
"""After a first byte of 0x50 to 0x5F."""
_UNSUPPORTED = ((b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4"))


class Readable(Protocol):
    """Where the compressed bytes come from: a file, or a reader that follows an ingest."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill some of ``buffer``; 0 at the end. Blocks until there is something."""


def decompressed(source: Readable, limits: Limits, *, layer: str) -> Decompressed:
    """Iterate over the uncompressed bytes of ``source``, in blocks of at most 256 KiB that stay valid.

    Raises InvalidArchiveError for damage, truncation and bytes after the end, LimitExceededError for bombs, and
    whatever ``source`` raises. ``layer`` is the blob's digest, for messages.
    """
    return Decompressed(source, limits, layer)


class Decompressed:
    """An iterator over blocks that also says what it found: see :func:`decompressed`."""

    def __init__(self, source: Readable, limits: Limits, layer: str) -> None:
        self.compression: Compression | None = None
        """What the magic says, once the first block was asked for."""
        self.read_bytes = 0
        """Compressed bytes taken from the source."""
        self.out_bytes = 0
        self._source = source
        self._limits = limits
        self._layer = layer
        self._blocks = self._produce()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return self

    def __next__(self) -> bytes | memoryview:
        block = next(self._blocks)
        self.out_bytes += len(block)
        if self.out_bytes > self._limits.layer_bytes:
            raise self._exceeded("layer_bytes", f"more than {self._limits.layer_bytes} bytes uncompressed")
        if (
            self.compression != "none"
            and self.out_bytes > self._limits.ratio_after_bytes
            and self.out_bytes > self._limits.layer_ratio * self.read_bytes
        ):
            raise self._exceeded("layer_ratio", f"compressed more than {self._limits.layer_ratio} : 1")
        return block

    def _produce(self) -> Iterator[bytes | memoryview]:
        first = self._read()
        while 0 < len(first) < _MAGIC_BYTES and (more := self._read()):
            first = memoryview(bytes(first) + bytes(more))
        self.compression = _sniff(bytes(first[:_MAGIC_BYTES]), self._layer)
        if self.compression == "none":
            while first:
                yield first
                first = self._read()
        elif self.compression == "gzip":
            yield from self._gzip(_Input(self._read, first))
        else:
            yield from self._zstd(_Input(self._read, first))

    def _read(self) -> memoryview:
        # A new buffer each time: blocks stay valid, and filling 256 KiB costs far more than zeroing it.
        buffer = memoryview(bytearray(_BLOCK_BYTES))
        count = self._source.readinto(buffer) or 0
        self.read_bytes += count
        return buffer[:count]

    def _gzip(self, data: _Input) -> Iterator[bytes]:
        while not data.at_end():
            if data.peek() == 0:
                # gzip(1) ignores zeros after the last member (tapes), and nothing else.
                while piece := data.take():
                    if any(piece):
                        raise self._invalid("has bytes after the gzip data")
                return
            header = GzipHeader()
            try:
                while not header.complete:
                    if not (piece := data.take()):
                        raise self._invalid("ends inside a gzip header")
                    rest = header.feed(piece)
            except ValueError as error:
                raise self._invalid(f"is damaged: {error}") from None
            data.give_back(len(rest))
            yield from self._inflate(inflater(), data, "gzip")

    def _zstd(self, data: _Input) -> Iterator[bytes]:
        while not data.at_end():
            yield from self._inflate(_zstd_frame(self._limits.zstd_window_log), data, "zstd")

    def _inflate(self, member: Inflater, data: _Input, name: str) -> Iterator[bytes]:
        """One member or frame; what follows it stays in ``data``."""
        while not member.eof:
            piece = memoryview(b"")
            if member.needs_input and not (piece := data.take()):
                raise self._invalid(f"ends inside its {name} data")
            try:
                block = member.decompress(piece, _BLOCK_BYTES)
            except Exception as error:
                # The error types of isal, zlib and zstd have only Exception in common.
                raise self._invalid(f"has damaged {name} data ({error})") from error
            if block:
                yield block
        data.give_back(len(member.unused_data))

    def _invalid(self, what: str) -> InvalidArchiveError:
        return InvalidArchiveError(f"layer {self._layer} {what}: the image must be pushed again", layer=self._layer)

    def _exceeded(self, limit: str, what: str) -> LimitExceededError:
        message = f"layer {self._layer}: {what}; if the image is trusted, raise Limits.{limit}"
        return LimitExceededError(message, limit=limit, layer=self._layer)


class _Input:
    """Compressed bytes, handed out in pieces that start small for each member.

    A decompressor keeps what follows its member as a copy. Ten thousand members in one block, each handed the whole
    rest of it, would copy gigabytes; pieces that double from 1 KiB bound that to the size of the member.
    """

    def __init__(self, read: Callable[[], memoryview], first: memoryview) -> None:
        self._read = read
        self._block = first
        self._at = 0
        self._piece_bytes = _FIRST_PIECE_BYTES

    def at_end(self) -> bool:
        if self._at == len(self._block):
            self._block, self._at = self._read(), 0
        return not self._block

    def peek(self) -> int:
        return self._block[self._at]

    def take(self) -> memoryview:
        """The next piece; empty at the end."""
        if self.at_end():
            return self._block
        piece = self._block[self._at : self._at + self._piece_bytes]
        self._at += len(piece)
        self._piece_bytes = min(2 * self._piece_bytes, _BLOCK_BYTES)
        return piece

    def give_back(self, count: int) -> None:
        """The last ``count`` bytes belong to what comes next (a member's end lies in its last piece)."""
        self._at -= count
        assert self._at >= 0
        self._piece_bytes = _FIRST_PIECE_BYTES


def _zstd_frame(window_log: int) -> Inflater:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # CPython 3.14
    except ImportError:
        from backports import zstd
    # Without the option a frame could claim a window of 2 GiB, and would be given it.
    frame: Inflater = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window_log})
    return frame


def _sniff(magic: bytes, layer: str) -> Compression:
    if magic.startswith(_GZIP):
        return "gzip"
    # A skippable frame may come first (RFC 8878 3.1.2; zstd:chunked and pzstd write them).
    if magic.startswith(_ZSTD) or (magic[1:4] == _SKIPPABLE and magic[0] >> 4 == 5):
        return "zstd"
    for prefix, name in _UNSUPPORTED:
        if magic.startswith(prefix) and (name != "bzip2" or magic[4:10] == b"1AY&SY"):
            message = f"layer {layer} is {name} data; only gzip, zstd and plain tar are read: push it as one of them"
            raise InvalidArchiveError(message, layer=layer)
    return "none"
