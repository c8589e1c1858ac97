"""One stage of every layer, one layer after another, on one thread: the child process of :mod:`benchmarks.floor.run`.

Standard library and isal (zstd for zstd layers), none of imgpull's code. What a stage starts from is in memory before
its clock starts, so that no stage pays for another. Reads an :class:`Order` as JSON, writes one JSON object.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.floor.apply import apply, refuse_unsafe
from benchmarks.measure import peak_rss_bytes

__all__ = ["STAGES", "Order", "inflater_name", "perform", "tar_of"]

_BLOCK = 256 * 1024
"""As imgpull reads and inflates; larger ones gain nothing (docs/decisions/threads.md)."""

STAGES = ("receive", "digest", "inflate", "digest-tar", "apply")
"""In the order of a pull."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a child does."""

    stage: str
    blobs: tuple[tuple[str, str], ...]
    """Digest, and the file it lies in."""
    address: str = ""
    repository: str = ""
    """Where ``receive`` gets them from."""
    directory: str = ""
    """Empty; where ``receive`` and ``apply`` write."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        fields = json.loads(text)
        return cls(**{**fields, "blobs": tuple((digest, path) for digest, path in fields["blobs"])})


def inflater_name() -> str:
    try:
        import isal  # noqa: F401
    except ImportError:
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    return "isal"


def _gzip(data: bytes, take: Callable[[bytes], None]) -> None:
    """Every member. ``igzip_lib`` alone: no reader, no file object."""
    from isal import igzip_lib

    rest: bytes | memoryview = data
    while rest:
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP, hist_bits=0)
        rest = _pieces(member, memoryview(rest), take)


def _zlib(data: bytes, take: Callable[[bytes], None]) -> None:
    rest = data
    while rest:
        member = zlib.decompressobj(31)
        pending = rest
        while not member.eof:
            if not pending:
                raise EOFError("the layer ends inside its gzip data")
            take(member.decompress(pending[:_BLOCK], _BLOCK))
            pending = member.unconsumed_tail + pending[_BLOCK:]
        rest = member.unused_data + pending


def _zstd(data: bytes, take: Callable[[bytes], None]) -> None:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # CPython 3.14
    except ImportError:
        from backports import zstd

    rest: bytes | memoryview = data
    while rest:
        rest = _pieces(zstd.ZstdDecompressor(), memoryview(rest), take)


def _pieces(member: Any, data: memoryview, take: Callable[[bytes], None]) -> bytes:
    """One member or frame out of ``data``; returns what follows it."""
    at = 0
    while not member.eof:
        piece = memoryview(b"")
        if member.needs_input:
            if at >= len(data):
                raise EOFError("the layer ends inside its compressed data")
            piece = data[at : at + _BLOCK]
            at += len(piece)
        take(member.decompress(piece, _BLOCK))
    return bytes(member.unused_data) + bytes(data[at:])


def _inflate(data: bytes, take: Callable[[bytes], None]) -> None:
    if data.startswith(b"\x1f\x8b"):
        (_zlib if inflater_name() != "isal" else _gzip)(data, take)
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        _zstd(data, take)
    else:
        take(data)


def tar_of(path: str) -> bytes:
    """The uncompressed bytes of the blob in ``path``."""
    pieces: list[bytes] = []
    _inflate(Path(path).read_bytes(), pieces.append)
    return b"".join(pieces)


def _digest(data: bytes) -> int:
    hasher, view = hashlib.sha256(), memoryview(data)
    for at in range(0, len(data), _BLOCK):
        hasher.update(view[at : at + _BLOCK])
    hasher.digest()
    return len(data)


def _inflated_bytes(data: bytes) -> int:
    total = 0

    def take(piece: bytes) -> None:
        nonlocal total
        total += len(piece)

    _inflate(data, take)
    return total


def perform(order: Order) -> dict[str, Any]:
    """Does what ``order`` says. Returns ``layers``, each with its digest, CPU and wall seconds and bytes."""
    connection = http.client.HTTPConnection(order.address) if order.address else None
    if connection is not None:
        connection.connect()
    layers = []
    extra: dict[str, int] = {"entries": 0, "left_out": 0}
    for digest, path in order.blobs:
        work = _prepared(order, connection, digest, path, extra)
        cpu, wall = time.process_time(), time.perf_counter()
        count = work()
        spent = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        layers.append({"digest": digest, "bytes": count, **{key: round(value, 6) for key, value in spent.items()}})
    if connection is not None:
        connection.close()
    return {"layers": layers, "max_rss_bytes": peak_rss_bytes(), **extra}


def _prepared(
    order: Order, connection: http.client.HTTPConnection | None, digest: str, path: str, extra: dict[str, int]
) -> Callable[[], int]:
    """The stage of one layer, with its input in memory; calling it is what is measured."""
    if order.stage == "receive":
        assert connection is not None
        target = f"{order.directory}/{digest.rpartition(':')[2]}"
        return lambda: _receive(connection, f"/v2/{order.repository}/blobs/{digest}", target)
    if order.stage in ("digest", "inflate"):
        data = Path(path).read_bytes()
        return (lambda: _digest(data)) if order.stage == "digest" else (lambda: _inflated_bytes(data))
    tar = tar_of(path)
    if order.stage == "digest-tar":
        return lambda: _digest(tar)
    extra["entries"] += refuse_unsafe(tar)
    os.makedirs(f"{order.directory}/{digest.rpartition(':')[2]}")
    os.chdir(f"{order.directory}/{digest.rpartition(':')[2]}")

    def applied() -> int:
        extra["left_out"] += apply(tar, owners=os.geteuid() == 0)
        return len(tar)

    return applied


def _receive(connection: http.client.HTTPConnection, url: str, target: str) -> int:
    connection.request("GET", url)
    response = connection.getresponse()
    if response.status != 200:
        raise OSError(f"GET {url}: status {response.status}")
    block = memoryview(bytearray(_BLOCK))
    total = 0
    fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    while count := response.readinto(block):
        total += os.write(fd, block[:count])
    os.close(fd)
    return total


def _main() -> None:
    order = Order.from_json(sys.stdin.read())
    try:
        result = perform(order)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
