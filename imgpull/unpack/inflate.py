"""The gzip members of one stream: own header parsing (RFC 1952), the deflate data by isal where it is installed.

The header is parsed here since isal's own parser fails on one that is split between two calls (measured, isal 1.9.1:
"Invalid deflate block found" for a 64 KiB FEXTRA fed in pieces), and accepts reserved flags. The trailer, CRC-32 and
ISIZE, is checked by either library.
"""

from __future__ import annotations

import zlib
from typing import Protocol

__all__ = ["GzipHeader", "Inflater", "inflater"]

_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED = 0x02, 0x04, 0x08, 0x10, 0xE0
_DEFLATE = 8
_FIXED_BYTES = 10
_TEXT_BYTES = 1 << 20
"""FNAME and FCOMMENT have no length of their own; gzip(1) writes a file name."""


class Inflater(Protocol):
    """One gzip member or zstd frame (the shape of ``lzma.LZMADecompressor``)."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes | bytearray | memoryview, max_length: int = -1, /) -> bytes: ...


class _ZlibInflater:
    """zlib in the shape of :class:`Inflater`, for machines without isal."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)
        # The header was parsed already, so zlib gets the shortest one there is.
        self._zlib.decompress(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
        self._pending = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._pending and not self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes | bytearray | memoryview, max_length: int = -1, /) -> bytes:
        tail = self._zlib.unconsumed_tail
        out = self._zlib.decompress(tail + bytes(data) if tail else data, max(max_length, 0))
        # A full output buffer may leave output behind although all input was taken.
        self._pending = not self._zlib.eof and (bool(self._zlib.unconsumed_tail) or len(out) == max_length)
        return out


def inflater() -> Inflater:
    """A decompressor for what follows a gzip header, trailer included."""
    try:
        from isal import igzip_lib
    except ImportError:
        return _ZlibInflater()
    fresh: Inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER, hist_bits=0)
    return fresh


class GzipHeader:
    """Takes the bytes of one member's header, in pieces of any size. Raises ValueError for what is no header."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self.complete = False

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take ``data``; once :attr:`complete`, the return value is what follows the header in it."""
        before = len(self._seen)
        self._seen += data
        end = self._end()
        if end is None:
            if len(self._seen) > 2 * _TEXT_BYTES + (1 << 17):
                raise ValueError("gzip header without end")
            return b""
        self.complete = True
        assert end > before
        return bytes(self._seen[end:])

    def _end(self) -> int | None:
        seen = self._seen
        if not b"\x1f\x8b".startswith(bytes(seen[:2])):
            raise ValueError("bytes after the compressed data")
        if len(seen) < _FIXED_BYTES:
            return None
        method, flags = seen[2], seen[3]
        if method != _DEFLATE or flags & _RESERVED:
            raise ValueError("gzip header with unknown method or flags")
        at = _FIXED_BYTES
        if flags & _FEXTRA:
            if len(seen) < at + 2:
                return None
            at += 2 + int.from_bytes(seen[at : at + 2], "little")
        for _ in range(bool(flags & _FNAME) + bool(flags & _FCOMMENT)):
            at = seen.find(0, at) + 1
            if not at:
                return None
        if flags & _FHCRC:
            at += 2
            if len(seen) >= at and zlib.crc32(seen[: at - 2]) & 0xFFFF != int.from_bytes(seen[at - 2 : at], "little"):
                raise ValueError("gzip header with a wrong checksum")
        return at if len(seen) >= at else None
