"""Numbers, checksums and names of a single header."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.archives import base256, header
from imgpull.unpack.header import checksum_matches, number, prefixed, text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"000644 \0", 0o644),
        (b"   644 \0", 0o644),
        (b"0000644 ", 0o644),
        (b"77777777", 0o77777777),
        (b"\0" * 8, 0),
        (b" " * 8, 0),
        (b"\x00\x00644\x00\x00\x00", 0o644),
        (b"644\0junk", 0o644),
        (b"\x80" + bytes(6) + b"\x05", 5),
        (b"\xff" * 8, -1),
        (base256(2**62, 12), 2**62),
        (base256(-(2**40), 12), -(2**40)),
    ],
)
def test_number(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize(
    "field",
    [
        b"0000648\0",
        b"-000644\0",
        b"+000644\0",
        b"0o00644\0",
        b"0_00644\0",
        b"064 644\0",
        b"64x\0\0\0\0\0",
        b"0x1ff\0\0\0",
    ],
)
def test_no_number(field: bytes) -> None:
    with pytest.raises(ValueError, match=r"octal|base 8"):
        number(field)


@given(st.binary(min_size=512, max_size=512), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_checksum_equals_the_plain_sum(block: bytes, signed: bool) -> None:
    """Adler-32 over two halves is exact for any bytes, and signed sums of old tars are taken too."""
    blank = block[:148] + b" " * 8 + block[156:]
    total = sum(blank) - (256 * sum(byte > 127 for byte in blank) if signed else 0)
    if total < 0:
        return
    field = b"%06o\0 " % total
    view = memoryview(b"pad" + block[:148] + field + block[156:])
    assert checksum_matches(view, 3, field)
    for wrong in (total + 1, total + 65521, max(total - 1, 0) if total else 7):
        wrong_field = b"%06o\0 " % wrong
        also = {sum(blank), sum(blank) - 256 * sum(byte > 127 for byte in blank)}
        view = memoryview(block[:148] + wrong_field + block[156:])
        assert checksum_matches(view, 0, wrong_field) is (wrong in also)


def test_the_checksum_of_all_ones_does_not_wrap() -> None:
    block = b"\xff" * 512
    total = 255 * 504 + 256
    field = b"%06o\0 " % total
    assert checksum_matches(memoryview(block[:148] + field + block[156:]), 0, field)


@pytest.mark.parametrize("spelling", ["%06o\0 ", "%07o\0", "%06o \0", "%6o\0 ", "%o\0"])
def test_spellings_of_the_checksum(spelling: str) -> None:
    block = header(b"name", checksum=b" " * 8)
    field = (spelling % sum(block)).encode().ljust(8, b"\0")
    assert checksum_matches(memoryview(block[:148] + field + block[156:]), 0, field)


@pytest.mark.parametrize("field", [b"\0" * 8, b"garbage!", b"-00001\0 "])
def test_no_checksum(field: bytes) -> None:
    assert not checksum_matches(memoryview(header(b"name", checksum=field)), 0, field)


STAR = bytes(8) + b"tar\0"
GNU, USTAR = b"ustar  \0", b"ustar\x0000"
TIMES = b"01234567012\0" * 2


@pytest.mark.parametrize(
    ("magic", "prefix", "rest", "expected"),
    [
        (USTAR, b"some/dir", b"", b"some/dir/name"),
        (USTAR, b"", b"", b"name"),
        (USTAR, b"p" * 131 + TIMES, STAR, b"p" * 131 + b"/name"),
        (USTAR, b"p" * 155, b"", b"p" * 155 + b"/name"),
        (GNU, TIMES, b"", b"name"),
        (GNU, b"go/before/1.8", b"", b"go/before/1.8/name"),
        (GNU, "gö".encode(), b"", b"name"),
        (bytes(8), b"v7 has none", b"", b"name"),
    ],
)
def test_prefix(magic: bytes, prefix: bytes, rest: bytes, expected: bytes) -> None:
    assert prefixed(b"name", magic, prefix.ljust(155, b"\0"), rest.ljust(12, b"\0")) == expected


def test_text_ends_at_the_first_nul() -> None:
    assert text(b"ab\0cd\0") == b"ab"
    assert text(b"a" * 100) == b"a" * 100
