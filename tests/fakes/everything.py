"""Three layers with everything that an image of real files has, and what each of its parts turns into above."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

from fakes.images import Files, Link, Node, random_bytes

# cap_net_raw=ep, version 2: little-endian words magic|effective, permitted, inheritable, and the upper halves
_CAP_NET_RAW = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
_WHEN = 1_600_000_000
_LONG = "/".join(["a-directory-with-a-name-of-forty-characters"] * 5)


def _file(content: bytes | str = b"", mode: int = 0o644, **more: object) -> Node:
    return Node(content, mode, mtime=_WHEN, **more)  # type: ignore[arg-type]


def _directory(mode: int = 0o755, when: float = _WHEN - 1000, **more: object) -> Node:
    return Node(None, mode, mtime=when, **more)  # type: ignore[arg-type]


def _link(target: str, *, hard: bool = False) -> Node:
    return Node(Link(target, hard), 0o777, mtime=_WHEN + 7)


def _special(name: str, kind: bytes, major: int = 0, minor: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.devmajor, info.devminor = kind, 0o620, _WHEN, major, minor
    return info


def _base() -> dict[str, object]:
    python = Path(sys.executable).resolve().read_bytes()[: 3 << 20]  # real bytes, some of which compress
    return {
        "./": _directory(0o755),
        **{name: _directory() for name in ("usr", "usr/bin", "usr/lib", "usr/lib/x86", "etc", "var", "srv", "home")},
        "bin": _link("usr/bin"),
        "lib": _link("usr/lib"),
        "usr/bin/tool": _file(python, 0o755),
        "usr/bin/tool-1": _link("usr/bin/tool", hard=True),
        "srv/tool-elsewhere": _link("usr/bin/tool", hard=True),
        "usr/bin/su": _file(b"suid", 0o4755),
        "usr/bin/wall": _file(b"sgid", 0o2755, gid=5),
        "usr/bin/ping": _file(b"ping", 0o755, xattrs={"security.capability": _CAP_NET_RAW.decode("latin-1")}),
        "usr/lib/x86/libc.so": _file(random_bytes(70_000)),
        "usr/lib/libc.so": _link("x86/libc.so"),
        "usr/lib/libc.so.6": _link("usr/lib/libc.so", hard=True),
        "usr/lib/plugins": _directory(xattrs={"user.note": "on a directory", "trusted.note": "root's"}),
        "usr/lib/plugins/below": _file(b"hidden by an opaque whiteout that came through the link"),
        "usr/lib/modules": _directory(),
        "usr/lib/modules/a": _file(b"a"),
        "usr/lib/modules/b": _file(b"b"),
        "tmp": _directory(0o1777),
        "var/mail": _directory(0o2775, gid=8),
        "var/log": _directory(),
        "var/log/old": _file(b"old"),
        "var/log/older": _file(b"older"),
        "var/kept": _directory(),
        "var/kept/deep": _directory(0o700, uid=1000, gid=1000),
        "var/kept/deep/file": _file(b"deep", 0o600, uid=1000, gid=33),
        "etc/shadow": _file(b"root:*:", 0o640, gid=42),
        "etc/secret": _file(b"no mode", 0o000),
        "etc/time": Node(b"a fraction", mtime=_WHEN + 0.25),
        "etc/empty": _file(),
        "etc/absolute": _link("/etc/shadow"),
        "etc/dangling": _link("../../nowhere"),
        "etc/becomes-directory": _file(b"a file yet"),
        "etc/becomes-file": _directory(),
        "etc/becomes-file/inside": _file(b"goes"),
        "etc/becomes-link": _directory(),
        "etc/becomes-link/inside": _file(b"goes"),
        "etc/link-becomes-directory": _link("becomes-file"),
        "home/grüße": _directory(0o750, uid=2_000_000, gid=2_000_000),
        "home/grüße/привет ☃.txt": _file("names are bytes", xattrs={"user.note": "ja"}),
        "home/latin-\udce4": _file(b"a name that is not UTF-8"),
        "home/grüße/two\nlines": _file(b"a line break in a name"),
        f"home/{_LONG}": _file(b"a long name"),
        "home/to-the-long-name": _link(_LONG),
        "srv/pipe": _special("srv/pipe", tarfile.FIFOTYPE),
        "srv/null": _special("srv/null", tarfile.CHRTYPE, 1, 3),
        "srv/disk": _special("srv/disk", tarfile.BLKTYPE, 7, 99),
    }


def _changes() -> dict[str, object]:
    return {
        "bin/added": _file(b"through the link", 0o755),
        "bin/.wh.wall": "",
        "lib/x86/libm.so": _file(random_bytes(5000, 1)),
        "lib/plugins/.wh..wh..opq": "",
        "lib/plugins/above": _file(b"above"),
        "lib/modules/.wh.a": "",
        "var": _directory(),
        "var/.wh.mail": "",
        "var/log": _directory(0o750),
        "var/log/.wh..wh..opq": "",
        "var/log/new": _file(b"new"),
        "var/kept/deep": _directory(0o711, uid=1001),
        "etc": _directory(),
        "etc/becomes-directory": _directory(),
        "etc/becomes-directory/inside": _file(b"new"),
        "etc/becomes-file": _file(b"a file now"),
        "etc/becomes-link": _link("becomes-directory"),
        "etc/link-becomes-directory": _directory(),
        "etc/link-becomes-directory/inside": _file(b"new"),
        "etc/shadow-link": _link("etc/shadow", hard=True),
        "usr/bin/tool-1": _file(b"no longer a link", 0o755),
        "implied/by/a/name": _file(b"its parents have no entries"),
    }


def _more() -> dict[str, object]:
    return {
        "etc/.wh.empty": "",
        "etc/time": Node(b"replaced", 0o600, mtime=_WHEN + 0.5),
        "var/mail": _directory(),
        "var/mail/again": _file(b"a name that was whited out below"),
        "home/grüße/.wh.two\nlines": "",
        "srv/.wh.pipe": "",
        "srv/tool-elsewhere": _link("usr/bin/added", hard=True),
        "app": _directory(),
        "app/run": _file(b"#!/bin/sh\n", 0o755),
    }


def everything() -> list[Files]:
    """The layers, lowest first: modes and owners, capabilities, hard links, devices, names in UTF-8 and of 200 bytes,
    whiteouts, an opaque directory, entries through a symbolic link below, and every type replaced by another."""
    return [_base(), _changes(), _more()]  # type: ignore[list-item]
