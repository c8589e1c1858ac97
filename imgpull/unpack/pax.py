"""PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"), as strict as Go's archive/tar."""

from __future__ import annotations

from collections.abc import Mapping

from imgpull.unpack.entry import NO_XATTRS, clamped_ns

__all__ = ["XattrLimitError", "decimal", "is_sparse", "pax_time_ns", "pax_xattrs", "records"]

_LENGTH_DIGITS = 8
_NUMBER_DIGITS = 20
"""More digits than 2**64 has; int() of a megabyte of digits takes minutes, or raises."""
_XATTR = b"SCHILY.xattr."
_TEXT_KEYS = (b"path", b"linkpath", b"uname", b"gname")
_SPARSE = (b"GNU.sparse.", b"SCHILY.realsize")


class XattrLimitError(ValueError):
    """More or longer extended attributes than the limits allow. ``limit`` names the field of ``Limits``."""

    def __init__(self, what: str, limit: str) -> None:
        super().__init__(what)
        self.limit = limit


def records(data: bytes) -> dict[bytes, bytes]:
    """``"<length> <key>=<value>\\n"`` … as a dictionary; the last record of a key wins, as POSIX says.

    Raises ValueError for a record that isn't one, for NUL where a name is expected, and for two different sizes.
    """
    found: dict[bytes, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        space = data.find(b" ", at, at + _LENGTH_DIGITS + 1)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            if not data[at:].strip(b"\0"):
                break  # some writers pad with NULs, and CPython's reader stops there too
            raise ValueError("has an extended header record without a length")
        stop = at + int(digits)
        # A length of 0, or less than its own digits, would loop for ever (CVE-2019-20907).
        if not space + 2 < stop <= end or data[stop - 1] != ord("\n"):
            raise ValueError("has an extended header record of a wrong length")
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise ValueError("has an extended header record without a key")
        if b"\0" in key or (b"\0" in value and key in _TEXT_KEYS):
            raise ValueError("has a NUL in an extended header name")
        if key == b"size" and found.get(key, value) != value:
            raise ValueError("has two sizes in its extended header")
        found[key] = value
        at = stop
    return found


def is_sparse(found: Mapping[bytes, bytes]) -> bool:
    """Whether the records describe a sparse file, in any of GNU's three PAX formats or star's."""
    return any(key.startswith(_SPARSE) for key in found)


def decimal(value: bytes) -> int:
    """A whole number, possibly negative. Raises ValueError; what has more than 20 digits is no number here."""
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _NUMBER_DIGITS:
        raise ValueError("has an extended header number that is none")
    return int(value)


def pax_time_ns(value: bytes) -> int:
    """``"1700000000.123456789"`` → nanoseconds, clamped. Raises ValueError for NaN, exponents and other text."""
    whole, point, fraction = value.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or (point and fraction and not fraction.isdigit()):
        raise ValueError("has an extended header time that is none")
    nanoseconds = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    seconds = int(digits[:_NUMBER_DIGITS])
    if whole.startswith(b"-"):
        return clamped_ns(-seconds, -nanoseconds)
    return clamped_ns(seconds, nanoseconds)


def pax_xattrs(found: Mapping[bytes, bytes], max_count: int, max_bytes: int) -> Mapping[bytes, bytes]:
    """The ``SCHILY.xattr.*`` records, names without the prefix. Raises ValueError or XattrLimitError."""
    xattrs = {key[len(_XATTR) :]: value for key, value in found.items() if key.startswith(_XATTR)}
    if not xattrs:
        return NO_XATTRS
    if len(xattrs) > max_count:
        raise XattrLimitError(f"has {len(xattrs)} extended attributes", "xattrs_per_entry")
    for name, value in xattrs.items():
        if len(value) > max_bytes:
            raise XattrLimitError(f"has an extended attribute of {len(value)} bytes", "xattr_bytes")
        if b"." not in name.strip(b"."):
            raise ValueError("has an extended attribute without a namespace")
    return xattrs
