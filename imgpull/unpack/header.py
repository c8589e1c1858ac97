"""One 512-byte tar header (POSIX.1-2017 ustar, GNU, star, v7), field by field, nothing interpreted but numbers.

What a field may hold is what Go's archive/tar accepts, since that is what builds and unpacks nearly every image; two
readers that disagree on a header see two different archives.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from zlib import adler32

from imgpull.unpack.entry import clamped_ns

__all__ = [
    "BLOCK_BYTES",
    "checksum_matches",
    "number",
    "prefixed",
    "repeated_number",
    "repeated_time_ns",
    "text",
    "unpack",
]

BLOCK_BYTES = 512
_HALF = BLOCK_BYTES // 2
_USTAR = b"ustar\0"
_GNU = b"ustar  \0"
_STAR_PREFIX_BYTES = 131
_ASCII = bytes(range(128))
_SPACES = 8 * 0x20

unpack = struct.Struct("=100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s").unpack_from
"""name mode uid gid size mtime checksum typeflag linkname magic+version uname gname devmajor devminor prefix rest"""


def text(field: bytes) -> bytes:
    """A name: up to the first NUL, or the whole field."""
    return field.partition(b"\0")[0]


def number(field: bytes) -> int:
    """Octal digits, or base 256 (GNU, star) where the first bit is set. Raises ValueError; may be negative."""
    digits = field[:-1]
    if digits.isdigit() and field[-1] in b"\0 ":
        return int(digits, 8)
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    digits = field.strip(b"\0 ").partition(b"\0")[0]
    # int() alone would take signs, underscores and "0o".
    if digits and not digits.isdigit():
        raise ValueError("not an octal number")
    return int(digits or b"0", 8)


repeated_number = lru_cache(maxsize=2048)(number)
"""For fields that have few different values in an archive: mode, uid, gid. Half the time of parsing them."""


@lru_cache(maxsize=2048)
def repeated_time_ns(field: bytes) -> int:
    """A time in seconds, as nanoseconds that every file system can store. Raises ValueError."""
    return clamped_ns(number(field))


def checksum_matches(block: memoryview, at: int, field: bytes) -> bool:
    """Whether the header's bytes add up to its checksum, counted with the checksum itself as spaces.

    The lower half of Adler-32 is 1 + the sum of the bytes modulo 65 521, hence exact for 256 bytes (at most 65 280),
    and a sixth of the time of ``sum()``. Some old tars summed signed bytes; both are accepted, as by everybody.
    """
    digits = field[:6]
    try:
        # "012345\\0 " is what nearly everybody writes.
        expected = int(digits, 8) if digits.isdigit() and field[6] == 0 else number(field)
    except ValueError:
        return False
    low = adler32(block[at : at + _HALF]) & 0xFFFF
    high = adler32(block[at + _HALF : at + BLOCK_BYTES]) & 0xFFFF
    total = low + high - (adler32(field) & 0xFFFF) - 1 + _SPACES
    if total == expected:
        return True
    # As signed bytes each one above 127 counts 256 less. The field itself is octal digits here, or no match.
    above = len(bytes(block[at : at + BLOCK_BYTES]).translate(None, _ASCII)) - len(field.translate(None, _ASCII))
    return bool(above) and total - 256 * above == expected


def prefixed(name: bytes, magic: bytes, prefix: bytes, rest: bytes) -> bytes:
    """The name with the ``prefix`` field before it, where this format has one."""
    if magic.startswith(_USTAR):
        if rest.endswith(b"tar\0"):  # star keeps access and change time in the last 24 bytes of the field
            prefix = prefix[:_STAR_PREFIX_BYTES]
    elif magic != _GNU or _has_times(prefix) or text(prefix).translate(None, _ASCII):
        return name
    # GNU's format has times there, not a prefix; Go before 1.8 wrote a prefix all the same (docker's broken.tar).
    prefix = text(prefix)
    return prefix + b"/" + name if prefix else name


def _has_times(field: bytes) -> bool:
    try:
        number(field[:12])
        number(field[12:24])
    except ValueError:
        return False
    return True
