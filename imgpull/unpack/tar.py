"""A streaming tar reader: blocks of bytes in, entries and their data out (POSIX.1-2017 pax and ustar, GNU, star, v7).

The standard library's ``tarfile`` is not used: a bad checksum or a header cut short ends its iteration in silence,
negative sizes pass, a size of 2**62 hangs it, and its filters were bypassed a dozen times.

Rules where readers differ, all chosen so that no entry can be seen by one reader and missed by another:

- names: PAX over GNU long name over prefix/name, as Go;
- only files have data. A size on a hard link is that of the linked file and has no data behind it (Go, GNU tar); on
  a directory, symbolic link, device or FIFO it is refused;
- a PAX size that contradicts a header able to hold it is refused (CVE-2025-62518, "TARmageddon");
- global PAX headers say nothing about paths, links, sizes or anything else, as Go; sparse files are refused by name;
- one zero block with anything but a zero block or the end behind it is refused; two zero blocks, or the stream's end
  at a 512-byte boundary, end the archive. What follows is read for the digest and never parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from imgpull.errors import UnpackError
from imgpull.limits import Limits
from imgpull.unpack.entry import MAX_ID, NO_XATTRS, Entry, Kind
from imgpull.unpack.header import (
    BLOCK_BYTES,
    checksum_matches,
    number,
    prefixed,
    repeated_number,
    repeated_time_ns,
    text,
    unpack,
)
from imgpull.unpack.pax import XattrLimitError, decimal, is_sparse, pax_time_ns, pax_xattrs, records
from imgpull.unpack.refusals import exceeded, invalid, unsafe

__all__ = ["TarReader"]

_ZEROS = bytes(BLOCK_BYTES)
_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",  # contiguous file: "shall be treated as a regular file" where the system has none
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "directory",
    b"6": "fifo",
}
_EXTENSIONS = (b"x", b"g", b"L", b"K")
_Plain = tuple[bytes, bytes, int, int, int, int]
"""What an extended header may say otherwise: name, linkname, uid, gid, size, mtime in ns."""
_OCTAL_SIZE_MAX = 0o77777777777
"""What eleven octal digits hold: 8 GiB − 1."""


class TarReader:
    """Iterate for entries; before the next one, :meth:`payload` gives the data of the current one.

    ``chunks`` are blocks of any length that stay valid while their successor is read. Raises InvalidArchiveError,
    UnsafeEntryError (an id out of range) and LimitExceededError, all with ``layer`` and ``entry``.
    """

    def __init__(self, chunks: Iterable[bytes | bytearray | memoryview], limits: Limits, layer: str) -> None:
        self.layer = layer
        self.headers = 0
        """Headers seen, extended ones included: what ``Limits.layer_entries`` counts."""
        self._chunks = iter(chunks)
        self._limits = limits
        self._most_bytes = limits.layer_bytes
        self._most_headers = limits.layer_entries
        self._view = memoryview(b"")
        self._at = 0
        self._end = 0
        self._before = 0  # bytes of the stream before _view
        self._left = 0  # data of the current entry not yet handed out
        self._padding = 0
        self._finished = False
        self._name = b""  # of the current entry, for messages
        self._extended_bytes = 0
        self._pending: dict[bytes, bytes] = {}  # extended headers of the next entry by typeflag

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        rest = self._left + self._padding
        if rest:
            self._skip(rest)
        while not self._finished:
            at = self._at
            if self._end - at >= BLOCK_BYTES:
                block = self._view
                self._at = at + BLOCK_BYTES
            else:
                block, at = self._straddling_block(), 0
                if not block:
                    self._finished = True
                    break
            fields = unpack(block, at)
            if not fields[0][0] and block[at : at + BLOCK_BYTES] == _ZEROS:
                self._end_of_archive()
                break
            self.headers += 1
            if self.headers > self._most_headers:
                raise exceeded(self.layer, self._name, "is followed by too many entries", "layer_entries")
            if not checksum_matches(block, at, fields[6]):
                raise self._invalid(f"is followed by no tar header at byte {self._before + self._at - BLOCK_BYTES}")
            if fields[7] in _EXTENSIONS:
                self._extension(fields[7], fields[4])
                continue
            return self._entry(fields)
        if self._pending:
            raise self._invalid("is followed by an extended header that belongs to no entry")
        raise StopIteration

    # -- data ----------------------------------------------------------------------------------------------------

    def payload(self) -> Iterable[memoryview]:
        """What is left of the current entry's data, in pieces as large as the blocks they lie in."""
        size = self._left
        at = self._at
        if size <= self._end - at:
            self._left = 0
            self._at = at + size
            return (self._view[at : at + size],) if size else ()
        return self._pieces()

    def _pieces(self) -> Iterator[memoryview]:
        while self._left:
            if self._at == self._end and not self._next_chunk():
                raise self._truncated()
            count = min(self._left, self._end - self._at)
            piece = self._view[self._at : self._at + count]
            self._at += count
            self._left -= count
            yield piece

    def drain(self) -> None:
        """Read the stream to its end, for the digests' sake. What comes after the archive is never parsed."""
        while self._next_chunk():
            pass
        self._finished = True

    def _skip(self, count: int) -> None:
        self._left = self._padding = 0
        while count > self._end - self._at:
            count -= self._end - self._at
            if not self._next_chunk():
                raise self._truncated()
        self._at += count

    def _next_chunk(self) -> bool:
        """Go on to the next block that is not empty; what was left of this one is gone."""
        self._before += self._end
        self._at = self._end = 0
        for chunk in self._chunks:
            if chunk:
                self._view = memoryview(chunk)
                self._end = len(self._view)
                return True
        return False

    def _straddling_block(self) -> memoryview:
        """A header that lies in two blocks or more, copied together; empty at the end of the stream."""
        parts = bytearray()
        while len(parts) < BLOCK_BYTES:
            if self._at == self._end and not self._next_chunk():
                if parts:
                    raise self._truncated()
                break
            count = min(BLOCK_BYTES - len(parts), self._end - self._at)
            parts += self._view[self._at : self._at + count]
            self._at += count
        return memoryview(parts)

    def _end_of_archive(self) -> None:
        """After one zero block: a second one, or nothing. Tars that end after one exist; Go reads them too."""
        self._finished = True
        second = self._straddling_block()
        if second and second != _ZEROS:
            raise self._invalid("is followed by one zero block and then more data")

    # -- headers -------------------------------------------------------------------------------------------------

    def _extension(self, typeflag: bytes, size_field: bytes) -> None:
        """Keep an extended header for the entry that follows it; a global one is read and forgotten."""
        size = self._size(size_field)
        self._extended_bytes += size
        if self._extended_bytes > self._limits.pax_bytes:
            raise exceeded(self.layer, self._name, "is followed by too long an extended header", "pax_bytes")
        self._left, self._padding = size, -size % BLOCK_BYTES
        data = b"".join(self.payload())
        self._skip(self._padding)
        if typeflag == b"g":
            return
        if typeflag in self._pending:
            raise self._invalid(f"is followed by two extended headers of type {typeflag.decode()} for one entry")
        self._pending[typeflag] = data

    def _entry(self, fields: tuple[bytes, ...]) -> Entry:
        name, mode, uid, gid, size_field, mtime, _, flag, link, magic, _, _, major, minor, prefix, rest = fields
        name = text(name)
        if prefix[0]:
            name = prefixed(name, magic, prefix, rest)
        self._name = name
        linkname = text(link) if link[0] else b""
        xattrs = NO_XATTRS
        try:
            owner, group = repeated_number(uid), repeated_number(gid)
            size = self._size(size_field)
            mtime_ns = repeated_time_ns(mtime)
            permissions = repeated_number(mode) & 0o7777
            if self._pending:
                plain = (name, linkname, owner, group, size, mtime_ns)
                (name, linkname, owner, group, size, mtime_ns), xattrs = self._extend(plain)
            kind = self._kind(flag, name)
            devices = (number(major), number(minor)) if kind in ("char", "block") else (0, 0)
        except XattrLimitError as error:
            raise exceeded(self.layer, self._name, str(error), error.limit) from None
        except UnpackError:
            raise
        except ValueError as error:
            what = str(error)
            raise self._invalid(what if what.startswith("has ") else "has a header number that is none") from None
        if not (0 <= owner <= MAX_ID and 0 <= group <= MAX_ID):
            raise unsafe(self.layer, name, f"has owner {owner}:{group}, outside 0 to {MAX_ID}")
        if kind != "file":
            if size and kind != "hardlink":
                raise self._invalid(f"is a {kind} with a size of {size} bytes")
            size = 0
        self._left, self._padding = size, -size % BLOCK_BYTES
        return Entry(name, kind, permissions, owner, group, mtime_ns, size, linkname, *devices, xattrs)

    def _kind(self, flag: bytes, name: bytes) -> Kind:
        kind = _KINDS.get(flag)
        if kind is None:
            if flag == b"S":
                raise self._invalid("is a GNU sparse file, which image-spec says SHOULD NOT be used")
            raise self._invalid(f"has an unknown type {flag!r}")
        # v7 tar had no type for directories.
        return "directory" if flag == b"\0" and name.endswith(b"/") else kind

    def _size(self, field: bytes) -> int:
        """The size field, within the limits. Raises InvalidArchiveError or LimitExceededError."""
        try:
            size = number(field)
        except ValueError:
            raise self._invalid("has a size that is no number") from None
        if not 0 <= size <= self._most_bytes - self._before - self._at:
            self._check_size(size)
        return size

    def _check_size(self, size: int) -> None:
        if size < 0:
            raise self._invalid(f"has a size of {size} bytes")
        if size > self._most_bytes - self._before - self._at:
            raise exceeded(self.layer, self._name, f"has a size of {size} bytes", "layer_bytes")

    def _extend(self, plain: _Plain) -> tuple[_Plain, Mapping[bytes, bytes]]:
        """Lay the pending extended headers over the plain ones. An empty PAX value means "as the header says"."""
        name, linkname, owner, group, size, mtime_ns = plain
        pending, self._pending, self._extended_bytes = self._pending, {}, 0
        found = records(pending.get(b"x", b""))
        name = self._name = found.get(b"path") or text(pending.get(b"L", b"")) or name
        linkname = found.get(b"linkpath") or text(pending.get(b"K", b"")) or linkname
        if is_sparse(found):
            raise self._invalid("is a sparse file, which image-spec says SHOULD NOT be used")
        if uid := found.get(b"uid"):
            owner = decimal(uid)
        if gid := found.get(b"gid"):
            group = decimal(gid)
        if pax_size := found.get(b"size"):
            size = self._pax_size(decimal(pax_size), size)
        if mtime := found.get(b"mtime"):
            mtime_ns = pax_time_ns(mtime)
        xattrs = pax_xattrs(found, self._limits.xattrs_per_entry, self._limits.xattr_bytes)
        return (name, linkname, owner, group, size, mtime_ns), xattrs

    def _pax_size(self, size: int, header_size: int) -> int:
        self._check_size(size)
        # Above 8 GiB writers leave 0 (Go, CPython), the low digits, or all sevens (libarchive) in the header.
        large = size > _OCTAL_SIZE_MAX
        if header_size != size and not (large and header_size in (0, size & _OCTAL_SIZE_MAX, _OCTAL_SIZE_MAX)):
            raise self._invalid(f"has a size of {header_size} bytes in its header and {size} in its extended header")
        return size

    def _truncated(self) -> UnpackError:
        self._finished = True
        return self._invalid(f"is cut short: the archive ends at byte {self._before + self._end}")

    def _invalid(self, what: str) -> UnpackError:
        return invalid(self.layer, self._name, what)
