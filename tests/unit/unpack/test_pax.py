"""Extended header records, times and attributes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.archives import pax_record
from imgpull.unpack.pax import XattrLimitError, decimal, is_sparse, pax_time_ns, pax_xattrs, records

SECOND = 10**9


@given(st.dictionaries(st.text("abc.XY", min_size=1, max_size=6), st.binary(max_size=300), max_size=6))
@settings(max_examples=100, deadline=None)
def test_records_round_trip(found: dict[str, bytes]) -> None:
    data = b"".join(pax_record(key, value) for key, value in found.items())
    expected = {key.encode(): value for key, value in found.items()}
    assert records(data) == expected
    assert records(data + bytes(37)) == expected


def test_the_last_record_of_a_key_wins() -> None:
    assert records(pax_record("path", "a") + pax_record("path", "b")) == {b"path": b"b"}


@pytest.mark.parametrize(
    "data",
    [
        b"0 a=b\n",
        b"2 a=b\n",
        b"5 a=b\n",
        b"7 a=b\n",
        b"6 a=b\0",
        b"-6 a=b\n",
        b"+6 a=b\n",
        b"0x6 a=b\n",
        b" 6 a=b\n",
        b"6  =b\nx",
        b"6 abc\n",
        b"5 =b\n",
        b"6\ta=b\n",
        b"99999999999999999999 a=b\n",
        b"6 a=b\n6 a=",
        b"6 a=b\njunk",
        b"9 a\0b=cd\n",
        b"12 path=a\0b\n",
        b"16 linkpath=a\0b\n",
        b"10 size=1\n10 size=2\n",
    ],
)
def test_no_records(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^has "):
        records(data)


def test_one_size_said_twice_is_one_size() -> None:
    assert records(b"10 size=1\n10 size=1\n") == {b"size": b"1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0", 0),
        (b"1700000000", 1_700_000_000 * SECOND),
        (b"1.5", 1_500_000_000),
        (b"1.", SECOND),
        (b"1.000000001999", SECOND + 1),
        (b"-1.5", -1_500_000_000),
        (b"-0.5", -500_000_000),
        (b"9" * 400, 2**63 - 1),
        (b"-" + b"9" * 400, -(2**31) * SECOND),
        (b"99999999999", 2**63 - 1),
    ],
)
def test_time(text: bytes, expected: int) -> None:
    assert pax_time_ns(text) == expected


@pytest.mark.parametrize("text", [b"", b"nan", b"inf", b"1e9", b"1.5e9", b"1.2.3", b"--1", b"+1", b" 1", b"1.-5", b"."])
def test_no_time(text: bytes) -> None:
    with pytest.raises(ValueError, match="time"):
        pax_time_ns(text)


@pytest.mark.parametrize("text", [b"", b"-", b"1.0", b"0x1", b"1_0", b"9" * 21, b"\xd9\xa3"])
def test_no_decimal(text: bytes) -> None:
    with pytest.raises(ValueError, match="number"):
        decimal(text)


def test_attributes() -> None:
    found = {b"path": b"x", b"SCHILY.xattr.user.a": b"\0\n=", b"LIBARCHIVE.xattr.user.b": b"aGk="}
    assert pax_xattrs(found, 10, 10) == {b"user.a": b"\0\n="}
    assert pax_xattrs({b"path": b"x"}, 10, 10) == {}


@pytest.mark.parametrize(
    ("found", "limit"),
    [
        ({b"SCHILY.xattr.user.a": b"", b"SCHILY.xattr.user.b": b""}, "xattrs_per_entry"),
        ({b"SCHILY.xattr.user.a": b"12345"}, "xattr_bytes"),
    ],
)
def test_attributes_above_the_limits(found: dict[bytes, bytes], limit: str) -> None:
    with pytest.raises(XattrLimitError) as caught:
        pax_xattrs(found, 1, 4)
    assert caught.value.limit == limit


@pytest.mark.parametrize("name", [b"", b"plain", b".user", b"user."])
def test_attributes_without_a_namespace(name: bytes) -> None:
    with pytest.raises(ValueError, match="namespace"):
        pax_xattrs({b"SCHILY.xattr." + name: b""}, 10, 10)


@pytest.mark.parametrize("key", [b"GNU.sparse.map", b"GNU.sparse.major", b"SCHILY.realsize"])
def test_sparse(key: bytes) -> None:
    assert is_sparse({b"path": b"", key: b"1"})
    assert not is_sparse({b"path": b""})
