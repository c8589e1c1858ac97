"""A tar put down as GNU tar does it, and nothing more: what applying a layer costs in CPython at least.

It believes its archive. So it is for images that were built here, and :func:`refuse_unsafe` reads every name first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Header", "UnsafeNameError", "apply", "headers", "refuse_unsafe"]

_BLOCK = 512
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
# A NUL for the kind, as before POSIX, is gone with the block's other NULs at its end.
_REGULAR, _LINK, _SYMLINK, _DIRECTORY = (b"0", b""), b"1", b"2", b"5"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"


class UnsafeNameError(Exception):
    """A name that could lead out of the directory."""


@dataclass(slots=True)
class Header:
    """One entry. ``at``: where its data begins."""

    kind: bytes
    name: bytes
    target: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    at: int
    size: int


def headers(tar: bytes) -> Iterator[Header]:
    """Every entry, with what a pax header or one of GNU's long names says of it. No checksum is looked at."""
    at = 0
    extended: dict[bytes, bytes] = {}
    while block := tar[at : at + _BLOCK].rstrip(b"\0"):
        at += _BLOCK
        kind, size = block[156:157], int(extended.get(b"size", 0)) or _number(block[124:136])
        data = at
        at += -(-size // _BLOCK) * _BLOCK
        if kind == _PAX:
            extended.update(_records(tar[data : data + size]))
        elif kind in (_LONG_NAME, _LONG_LINK):
            extended[b"path" if kind == _LONG_NAME else b"linkpath"] = tar[data : data + size].rstrip(b"\0")
        elif kind != _PAX_GLOBAL:
            yield _header(block, kind, data, size, extended)
            extended = {}


def _header(block: bytes, kind: bytes, data: int, size: int, extended: dict[bytes, bytes]) -> Header:
    name = extended.get(b"path")
    if name is None:
        name = block[:100].partition(b"\0")[0]
        prefix = block[345:500].partition(b"\0")[0]
        if prefix and block[257:263] == b"ustar\0":
            name = prefix + b"/" + name
    target = extended.get(b"linkpath")
    if target is None:
        target = block[157:257].partition(b"\0")[0]
    seconds = extended.get(b"mtime")
    mtime_ns = _number(block[136:148]) * 1_000_000_000 if seconds is None else int(float(seconds) * 1e9)
    uid, gid = int(extended.get(b"uid", -1)), int(extended.get(b"gid", -1))
    return Header(
        kind,
        name.rstrip(b"/"),
        target,
        _number(block[100:108]) & 0o7777,
        _number(block[108:116]) if uid < 0 else uid,
        _number(block[116:124]) if gid < 0 else gid,
        mtime_ns,
        data,
        size,
    )


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's base 256
        return int.from_bytes(field[1:], "big")
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _records(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    while raw:
        length = int(raw.partition(b" ")[0])
        key, _, value = raw[raw.index(b" ") + 1 : length - 1].partition(b"=")
        yield key, value
        raw = raw[length:]


def refuse_unsafe(tar: bytes) -> int:
    """Returns how many entries there are. Raises UnsafeNameError for an absolute name, one with ``..``, and one below
    a symbolic link of the same archive: :func:`apply` would follow it, and it runs as root."""
    links: set[tuple[bytes, ...]] = set()
    entries = 0
    for header in headers(tar):
        entries += 1
        named = _parts(header.name)
        target = _parts(header.target) if header.kind == _LINK else ()
        for name, parts in ((header.name, named), (header.target, target)):
            above = {parts[:depth] for depth in range(1, len(parts))}
            if parts and (name.startswith(b"/") or b".." in parts or above & links):
                raise UnsafeNameError(f"{os.fsdecode(name)!r} could lead out of its directory: not applied")
        if header.kind == _SYMLINK or target in links:  # a hard link to a symbolic one is one, too
            links.add(named)
    return entries


def _parts(name: bytes) -> tuple[bytes, ...]:
    return tuple(part for part in name.split(b"/") if part not in (b"", b"."))


def apply(tar: bytes, *, owners: bool) -> int:
    """Puts ``tar`` down in the current directory, which is empty. Whiteouts are files like others. ``owners``: set
    them, which only root may. Returns how many entries were left out: devices, FIFOs, and links into lower layers."""
    view = memoryview(tar)
    left_out = 0
    directories: list[Header] = []
    for header in headers(tar):
        if header.kind == _DIRECTORY:
            _directory(header)
            directories.append(header)
            continue
        try:
            made = _make(header, view, owners)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(header.name) or b".", exist_ok=True)
            made = _make(header, view, owners, again=True)
        except FileExistsError:
            os.unlink(header.name)
            made = _make(header, view, owners)
        left_out += not made
    for header in reversed(directories):  # last, as GNU tar: each file within has changed its time
        if owners:
            os.chown(header.name or b".", header.uid, header.gid)
        os.chmod(header.name or b".", header.mode)
        os.utime(header.name or b".", ns=(header.mtime_ns, header.mtime_ns))
    return left_out


def _directory(header: Header) -> None:
    try:
        os.mkdir(header.name or b".")
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(header.name)


def _make(header: Header, view: memoryview, owners: bool, *, again: bool = False) -> bool:
    name = header.name
    if header.kind in _REGULAR:
        fd = os.open(name, _CREATE, 0o600)
        at, end = header.at, header.at + header.size
        while at < end:
            at += os.write(fd, view[at:end])
        if owners:
            os.fchown(fd, header.uid, header.gid)
        os.fchmod(fd, header.mode)
        os.utime(fd, ns=(header.mtime_ns, header.mtime_ns))
        os.close(fd)
    elif header.kind == _SYMLINK:
        os.symlink(header.target, name)
        if owners:
            os.chown(name, header.uid, header.gid, follow_symlinks=False)
        os.utime(name, ns=(header.mtime_ns, header.mtime_ns), follow_symlinks=False)
    elif header.kind == _LINK:
        try:
            os.link(header.target, name, follow_symlinks=False)
        except FileNotFoundError:
            if not again:
                raise
            return False
    else:
        return False
    return True
