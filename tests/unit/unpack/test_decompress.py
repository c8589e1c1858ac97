"""Compressed layers: what is read, what is refused, and that a bomb ends early."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import sys
import zlib
from collections.abc import Callable

import pytest
from backports import zstd

from imgpull.errors import InvalidArchiveError, LimitExceededError
from imgpull.limits import Limits
from imgpull.unpack import decompress as module
from imgpull.unpack.decompress import decompressed

LAYER = "sha256:" + "1" * 64
DATA = random.Random(7).randbytes(3000) + b"layer" * 60_000
SKIPPABLE = struct.pack("<II", 0x184D2A57, 5) + b"hello"


class Trickle(io.RawIOBase):
    """A source that gives at most ``step`` bytes at a time, as a socket does."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        self._data = io.BytesIO(data)
        self._step = step
        self.given = 0

    def readinto(self, buffer: memoryview) -> int:
        piece = self._data.read(min(self._step, len(buffer)))
        buffer[: len(piece)] = piece
        self.given += len(piece)
        return len(piece)


def inflate(data: bytes, limits: Limits | None = None, step: int = 1 << 30) -> bytes:
    return b"".join(decompressed(Trickle(data, step), limits or Limits(), layer=LAYER))


def deflated(data: bytes) -> bytes:
    worker = zlib.compressobj(6, zlib.DEFLATED, -15)
    return worker.compress(data) + worker.flush()


def gzip_with(flags: int, fields: bytes, *, header_crc: bool | None = None) -> bytes:
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + fields
    if header_crc is not None:
        head += struct.pack("<H", (zlib.crc32(head) + (not header_crc)) & 0xFFFF)
    return head + deflated(DATA) + struct.pack("<II", zlib.crc32(DATA), len(DATA))


@pytest.fixture(params=["isal", "zlib"])
def _inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)


ACCEPTED: dict[str, tuple[Callable[[], bytes], bytes, str]] = {
    "plain": (lambda: DATA, DATA, "none"),
    "nothing": (lambda: b"", b"", "none"),
    "few bytes": (lambda: b"tar", b"tar", "none"),
    "gzip": (lambda: gzip.compress(DATA), DATA, "gzip"),
    "gzip of nothing": (lambda: gzip.compress(b""), b"", "gzip"),
    "gzip members": (lambda: gzip.compress(DATA) + gzip.compress(b"") + gzip.compress(b"end"), DATA + b"end", "gzip"),
    "gzip and zeros": (lambda: gzip.compress(DATA) + bytes(700_000), DATA, "gzip"),
    "gzip FEXTRA": (lambda: gzip_with(4, struct.pack("<H", 65_535) + b"e" * 65_535), DATA, "gzip"),
    "gzip FNAME": (lambda: gzip_with(8, b"n" * 100_000 + b"\0"), DATA, "gzip"),
    "gzip all fields": (lambda: gzip_with(28, b"\x02\0xxname\0comment\0"), DATA, "gzip"),
    "gzip FHCRC": (lambda: gzip_with(2, b"", header_crc=True), DATA, "gzip"),
    "zstd": (lambda: zstd.compress(DATA), DATA, "zstd"),
    "zstd frames": (lambda: zstd.compress(DATA) + SKIPPABLE + zstd.compress(b"end"), DATA + b"end", "zstd"),
    "zstd skippable first": (lambda: SKIPPABLE + zstd.compress(DATA), DATA, "zstd"),
    "starts like bzip2": (lambda: b"BZhang/" + bytes(505), b"BZhang/" + bytes(505), "none"),
}


@pytest.mark.usefixtures("_inflater")
@pytest.mark.parametrize("step", [1 << 30, 997])
@pytest.mark.parametrize("name", ACCEPTED)
def test_is_read_to_the_last_byte(name: str, step: int) -> None:
    make, expected, compression = ACCEPTED[name]
    stream = decompressed(Trickle(make(), step), Limits(), layer=LAYER)
    assert b"".join(stream) == expected
    assert stream.compression == compression
    assert stream.read_bytes == len(make())


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip, junk behind": (lambda: gzip.compress(DATA) + b"junk", "bytes after"),
    "gzip, zeros and junk behind": (lambda: gzip.compress(DATA) + bytes(10) + b"junk", "bytes after"),
    "gzip, zeros and a member behind": (lambda: gzip.compress(DATA) + bytes(10) + gzip.compress(b"x"), "bytes after"),
    "gzip, cut in the data": (lambda: gzip.compress(DATA)[:-100], "ends inside"),
    "gzip, cut in the trailer": (lambda: gzip.compress(DATA)[:-1], "ends inside"),
    "gzip, cut in the header": (lambda: gzip.compress(DATA)[:5], "ends inside a gzip header"),
    "gzip, second member cut": (lambda: gzip.compress(DATA) + gzip.compress(DATA)[:-1], "ends inside"),
    "gzip, wrong CRC": (lambda: _flipped(gzip.compress(DATA), -8), "damaged"),
    "gzip, wrong ISIZE": (lambda: _flipped(gzip.compress(DATA), -1), "damaged"),
    "gzip, second member damaged": (lambda: gzip.compress(DATA) + _flipped(gzip.compress(DATA), -8), "damaged"),
    "gzip, reserved flag": (lambda: gzip_with(0x80, b""), "damaged"),
    "gzip, unknown method": (lambda: b"\x1f\x8b\x07" + bytes(50), "damaged"),
    "gzip, wrong header checksum": (lambda: gzip_with(2, b"", header_crc=False), "wrong checksum"),
    "gzip, endless name": (lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 4_000_000, "without end"),
    "gzip, no deflate data": (lambda: b"\x1f\x8b\x08\0" + bytes(6) + b"\xff" * 400, "damaged"),
    "zstd, cut": (lambda: zstd.compress(DATA)[:-1], "ends inside"),
    "zstd, junk behind": (lambda: zstd.compress(DATA) + b"junkjunk", "damaged"),
    "zstd, damaged": (
        lambda: _flipped(zstd.compress(DATA, options={zstd.CompressionParameter.checksum_flag: 1}), -1),
        "damaged",
    ),
    "xz": (lambda: lzma.compress(DATA), "xz data"),
    "bzip2": (lambda: bz2.compress(DATA), "bzip2 data"),
}


@pytest.mark.usefixtures("_inflater")
@pytest.mark.parametrize("step", [1 << 30, 997])
@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, step: int) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InvalidArchiveError, match=message) as caught:
        inflate(make(), step=step)
    assert caught.value.layer == LAYER
    assert "\n" not in str(caught.value)


def test_a_zstd_window_above_the_limit_is_refused() -> None:
    worker = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
    plain = random.Random(5).randbytes(1 << 20) * 4
    data = worker.compress(plain) + worker.flush()
    assert inflate(data) == plain
    with pytest.raises(InvalidArchiveError, match="damaged zstd data"):
        inflate(data, Limits(zstd_window_log=20))


@pytest.mark.usefixtures("_inflater")
@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_a_bomb_ends_at_the_ratio(compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(64 << 20))
    source = Trickle(bomb)
    limits = Limits(layer_ratio=500, ratio_after_bytes=1 << 20)
    given = 0
    with pytest.raises(LimitExceededError) as caught:
        for block in decompressed(source, limits, layer=LAYER):
            given += len(block)
    assert caught.value.limit == "layer_ratio"
    assert given <= max(len(bomb) * 500, 1 << 20)


def test_a_ratio_is_not_looked_at_before_enough_came_out() -> None:
    assert len(inflate(zstd.compress(bytes(1 << 20)), Limits(layer_ratio=2))) == 1 << 20


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress])
def test_more_bytes_than_a_layer_may_have(compress: Callable[[bytes], bytes]) -> None:
    data = random.Random(1).randbytes(1 << 20)
    assert inflate(compress(data), Limits(layer_bytes=1 << 20)) == data
    with pytest.raises(LimitExceededError) as caught:
        inflate(compress(data), Limits(layer_bytes=(1 << 20) - 1))
    assert caught.value.limit == "layer_bytes"


def test_what_the_source_raises_passes_through() -> None:
    class Broken(Trickle):
        def readinto(self, buffer: memoryview) -> int:
            if self.given > 300_000:
                raise ConnectionResetError("gone")
            return super().readinto(buffer)

    data = random.Random(3).randbytes(1 << 20)
    for blob in (data, gzip.compress(data), zstd.compress(data)):
        with pytest.raises(ConnectionResetError, match="gone"):
            list(decompressed(Broken(blob, 100_000), Limits(), layer=LAYER))


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_many_members_are_not_copied_again_and_again(compress: Callable[[bytes], bytes]) -> None:
    """Each member is handed only a little of what follows it: a decompressor copies what it does not use."""
    member = compress(b"x")
    copied = 0

    class Counting:
        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        @property
        def unused_data(self) -> bytes:
            nonlocal copied
            data: bytes = self._inner.unused_data  # type: ignore[attr-defined]
            copied += len(data)
            return data

    with pytest.MonkeyPatch.context() as patch:
        inflater, frame = module.inflater, module._zstd_frame
        patch.setattr(module, "inflater", lambda: Counting(inflater()))
        patch.setattr(module, "_zstd_frame", lambda log: Counting(frame(log)))
        assert inflate(member * 2000) == b"x" * 2000
    assert copied <= 2000 * 1024


def test_random_splits_and_members_equal_gzip() -> None:
    chooser = random.Random(11)
    for _ in range(40):
        parts = [
            chooser.randbytes(chooser.choice([0, 1, 100, 70_000])) * chooser.choice([1, 3])
            for _ in range(chooser.randrange(1, 5))
        ]
        blob = b"".join(gzip.compress(part, chooser.choice([0, 1, 9])) for part in parts)
        assert inflate(blob, step=chooser.choice([1 << 30, 313, 10_000])) == b"".join(parts)
