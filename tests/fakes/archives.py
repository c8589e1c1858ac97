"""Tar archives byte by byte, well-formed or not, and chains of layers made from them without a store.

archive(D("etc"), F("etc/passwd", b"root"), S("localetc", "/etc"), H("copy", "etc/passwd"))
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgpull.limits import Limits
from imgpull.store.snapshots.layer import LayerTree
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.node import Node
from imgpull.unpack.applier import Applied, Applier, WhiteoutOrderError
from imgpull.unpack.assumption import KnownLinks, LowerLinks
from imgpull.unpack.tar import TarReader

LAYER = "sha256:" + "a" * 64
END = bytes(1024)
LIMITS = Limits()


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    return (value & ((1 << (8 * width)) - 1) | 1 << (8 * width - 1)).to_bytes(width, "big")


def header(name: bytes, typeflag: bytes = b"0", **fields: bytes) -> bytes:
    """One header; ``fields`` are raw bytes. The checksum is right unless it is given."""
    values = {
        "mode": octal(0o644, 8),
        "uid": octal(0, 8),
        "gid": octal(0, 8),
        "size": octal(0, 12),
        "mtime": octal(0, 12),
        "checksum": b" " * 8,
        "linkname": b"",
        "magic": b"ustar\x0000",
        "uname": b"",
        "gname": b"",
        "devmajor": octal(0, 8),
        "devminor": octal(0, 8),
        "prefix": b"",
        "rest": b"",
    } | fields
    widths = [("mode", 8), ("uid", 8), ("gid", 8), ("size", 12), ("mtime", 12), ("checksum", 8)]
    tail = [("linkname", 100), ("magic", 8), ("uname", 32), ("gname", 32), ("devmajor", 8), ("devminor", 8)]
    tail += [("prefix", 155), ("rest", 12)]
    block = name[:100].ljust(100, b"\0")
    block += b"".join(values[key].ljust(width, b"\0") for key, width in widths)
    block += typeflag + b"".join(values[key].ljust(width, b"\0") for key, width in tail)
    assert len(block) == 512, len(block)
    if "checksum" not in fields:
        block = block[:148] + b"%06o\0 " % sum(block) + block[156:]
    return block


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(records: Mapping[str, bytes | str], typeflag: bytes = b"x") -> bytes:
    return raw_pax(b"".join(pax_record(key, value) for key, value in records.items()), typeflag)


def pax_record(key: str, value: bytes | str) -> bytes:
    body = b" " + key.encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return b"%d" % length + body


def raw_pax(data: bytes, typeflag: bytes = b"x") -> bytes:
    return header(b"PaxHeaders/x", typeflag, size=octal(len(data), 12)) + padded(data)


def long_name(name: bytes, typeflag: bytes = b"L") -> bytes:
    return header(b"././@LongLink", typeflag, size=octal(len(name) + 1, 12), magic=b"ustar  \0") + padded(name + b"\0")


def entry(
    name: str | bytes,
    typeflag: bytes = b"0",
    data: bytes = b"",
    *,
    link: str | bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    xattrs: Mapping[str, bytes] | None = None,
    **fields: bytes,
) -> bytes:
    """One entry with its data; names that don't fit and attributes go to a PAX header."""
    raw, target = os.fsencode(name), os.fsencode(link)
    records: dict[str, bytes | str] = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
    if len(raw) > 100:
        records["path"] = raw
    if len(target) > 100:
        records["linkpath"] = target
    numbers = {
        "mode": octal(mode, 8),
        "uid": octal(uid, 8),
        "gid": octal(gid, 8),
        "mtime": octal(mtime, 12),
        "size": octal(len(data), 12),
        "linkname": target[:100],
    }
    return (pax(records) if records else b"") + header(raw, typeflag, **(numbers | fields)) + padded(data)


def F(name: str | bytes, data: bytes = b"", **more: Any) -> bytes:
    return entry(name, b"0", data, **more)


def D(name: str | bytes, mode: int = 0o755, **more: Any) -> bytes:
    return entry(name, b"5", mode=mode, **more)


def S(name: str | bytes, link: str | bytes, **more: Any) -> bytes:
    return entry(name, b"2", link=link, mode=0o777, **more)


def H(name: str | bytes, link: str | bytes, **more: Any) -> bytes:
    return entry(name, b"1", link=link, **more)


def P(name: str | bytes, **more: Any) -> bytes:
    return entry(name, b"6", **more)


def C(name: str | bytes, major: int, minor: int, typeflag: bytes = b"3", **more: Any) -> bytes:
    return entry(name, typeflag, devmajor=octal(major, 8), devminor=octal(minor, 8), **more)


def archive(*entries: bytes) -> bytes:
    return b"".join(entries) + END


def pieces(data: bytes, size: int | random.Random = 4096) -> Iterator[bytes]:
    """``data`` in blocks of one size, or of sizes that the random generator chooses."""
    at = 0
    while at < len(data):
        count = size if isinstance(size, int) else size.choice((1, 7, 100, 511, 512, 513, 5000))
        yield data[at : at + count]
        at += count


def read(data: bytes, limits: Limits = LIMITS, size: int | random.Random = 4096) -> list[tuple[Any, bytes]]:
    """Every entry with its data."""
    reader = TarReader(pieces(data, size), limits, LAYER)
    return [(found, b"".join(bytes(piece) for piece in reader.payload())) for found in reader]


class DoesNotHold(Exception):
    """What a layer assumed of its parents is not true: it must be applied upon them."""


@dataclass
class Chain:
    """Layers applied one onto another in a directory, each in its own tree, as the store does."""

    place: Path
    layers: list[LayerTree] = field(default_factory=list)
    reapplied: int = 0
    """How often a layer had to be applied again because of the order of its whiteouts."""

    def lower_links(self, lower: MergedTree) -> LowerLinks:
        """What a layer is applied by; a test may know less of the parents than there is."""
        return KnownLinks(lower)

    def apply(
        self, *entries: bytes, privileged: bool | None = None, limits: Limits = LIMITS, hidden: Any = None
    ) -> Applied:
        """One more layer. Where it is refused the chain is as before."""
        return self.apply_tar(archive(*entries), privileged=privileged, limits=limits, hidden=hidden)

    def apply_tar(
        self, data: bytes, *, privileged: bool | None = None, limits: Limits = LIMITS, hidden: Any = None
    ) -> Applied:
        root = self.place / f"layer{len(self.layers)}-{self.reapplied}-{len(os.listdir(self.place))}"
        root.mkdir(mode=0o700)
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        privileged = os.geteuid() == 0 if privileged is None else privileged
        try:
            with (
                MergedTree(self.layers) as lower,
                Applier(
                    root_fd, self.lower_links(lower), privileged=privileged, limits=limits, layer=LAYER, hidden=hidden
                ) as applier,
            ):
                applier.make(TarReader(pieces(data), limits, LAYER))
                if not applier.holds(lower):
                    raise DoesNotHold
                applied = applier.settle(lower)
        except WhiteoutOrderError as error:
            if hidden is not None:
                raise
            self.reapplied += 1
            return self.apply_tar(data, privileged=privileged, limits=limits, hidden=error.hidden)
        finally:
            os.close(root_fd)
        self.layers.append(LayerTree(root, applied.journal))
        return applied

    @contextmanager
    def merged(self) -> Iterator[MergedTree]:
        with MergedTree(self.layers) as tree:
            yield tree

    def node(self, name: str) -> Node | None:
        """Valid for its ``stat`` only."""
        with self.merged() as tree:
            return tree.lookup(_path(name))

    def names(self) -> list[str]:
        """Every name in the merged view, the root left out."""
        with self.merged() as tree:
            return [b"/".join(node.path).decode("utf-8", "surrogateescape") for node in tree.walk() if node.path]

    def read(self, name: str) -> bytes:
        """A file's content, or a link's target."""
        with self.merged() as tree:
            node = tree.lookup(_path(name))
            assert node is not None, name
            if node.is_symlink:
                return node.readlink()
            fd = node.open()
            with os.fdopen(fd, "rb") as file:
                return file.read()

    def xattrs(self, name: str) -> dict[bytes, bytes]:
        with self.merged() as tree:
            node = tree.lookup(_path(name))
            assert node is not None, name
            return node.xattrs()

    def own_names(self, index: int = -1) -> set[str]:
        """What a layer has on disk itself."""
        root = self.layers[index].root
        found = set()
        for directory, names, files in os.walk(root):
            found |= {os.path.relpath(os.path.join(directory, name), root) for name in [*names, *files]}
        return found


def _path(name: str) -> tuple[bytes, ...]:
    return tuple(os.fsencode(name).split(b"/")) if name else ()
