"""Directory trees for tests: written from a short description, and read back with everything that is to be kept."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import struct
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgpull.store.snapshots.rootfs import Rootfs

NOBODY = 65534
LONG_AGO = 1_000_000_000_123_456_789

Entry = None | bytes | str
"""None a directory · bytes a regular file · str a symbolic link to it."""


def write_tree(root: Path, entries: Mapping[str, Entry]) -> Path:
    """Make ``root`` with these entries; parents are made as needed."""
    root.mkdir(parents=True, exist_ok=True)
    for name, entry in entries.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry is None:
            path.mkdir(exist_ok=True)
        elif isinstance(entry, bytes):
            path.write_bytes(entry)
        else:
            path.symlink_to(entry)
    return root


def set_times(root: Path) -> None:
    """Give every entry a time of its own, long ago."""
    for directory, names, files in os.walk(root, topdown=False):
        for number, name in enumerate(sorted([*names, *files])):
            when = LONG_AGO + number
            os.utime(os.path.join(directory, name), ns=(when, when), follow_symlinks=False)
    os.utime(root, ns=(LONG_AGO, LONG_AGO))


def everything(root: Path) -> Path:
    """A layer with every kind of entry and attribute this user can make."""
    write_tree(
        root,
        {
            "bin/tool": b"#!/bin/sh\n",
            "bin/alias": "tool",
            "dead": "/no/such/place",
            "empty": None,
            "etc/secret": b"s" * 5000,
            "caf\udce9": b"no UTF-8",
            "shared/one": b"hard",
        },
    )
    os.link(root / "shared/one", root / "another")
    os.symlink("x", root / "shared/link")
    os.link(root / "shared/link", root / "shared/same-link", follow_symlinks=False)
    os.mkfifo(root / "shared/fifo")
    with (root / "sparse").open("wb") as file:
        file.seek(4 << 20)
        file.write(b"end")
        file.truncate((4 << 20) + 100_000)
    locked = 0 if os.geteuid() == 0 else 0o400
    for name, mode in (
        ("bin/tool", 0o4755),
        ("etc/secret", locked),
        ("empty", 0o1777),
        ("etc", 0o2750),
        ("shared", 0o555),
    ):
        os.chmod(root / name, mode)
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "disk", stat.S_IFBLK | 0o640, os.makedev(8, 0))
        os.chown(root / "bin/alias", 7, 8, follow_symlinks=False)
        os.chown(root / "etc", 3, 4)
        os.chown(root / "etc/secret", 12345, 54321)
        os.chown(root / "bin/tool", 5, 6)
        os.chmod(root / "bin/tool", 0o4755)
        os.chmod(root / "etc", 0o2750)
    _give_xattrs(root)
    os.chmod(root, 0o711)
    set_times(root)
    return root


def _give_xattrs(root: Path) -> None:
    try:
        os.setxattr(root / "sparse", "user.note", b"\0\xff")
        os.setxattr(root / "empty", "user.dir", b"d")
        if os.geteuid() == 0:
            capability = b"\x01\x00\x00\x02\x00\x04" + b"\0" * 14
            os.setxattr(root / "caf\udce9", "security.capability", capability)
            os.setxattr(root / "dead", "trusted.link", b"l", follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def read_tree(root: Path, *, times: bool = True, digested: bool = False) -> dict[str, tuple[object, ...]]:
    """Every entry below ``root``, itself as ``""``: kind and mode, owner, content, attributes, time, link group.
    ``digested``: of a file's content its SHA-256 only, for trees larger than memory."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        here = os.path.relpath(directory, root)
        for name in [*names, *files, *([""] if here == "." else [])]:
            path = os.path.join(directory, name) if name else directory
            shown = os.path.normpath(os.path.join(here, name)) if name else ""
            found[shown] = _entry(path, times=times, digested=digested)
    return grouped(found)


def grouped(found: Mapping[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """The same in order, with the first name of an inode in place of what stands last for it (None for none)."""
    first: dict[object, str] = {}
    return {
        name: (*entry[:-1], None if entry[-1] is None else first.setdefault(entry[-1], name))
        for name, entry in sorted(found.items())
    }


def _entry(path: str, *, times: bool, digested: bool) -> tuple[object, ...]:
    status = os.lstat(path)
    content: object = None
    if stat.S_ISREG(status.st_mode):
        content = file_digest(path) if digested else Path(path).read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        content = status.st_rdev
    inode = None if stat.S_ISDIR(status.st_mode) else status.st_ino
    when = status.st_mtime_ns if times else 0
    return (stat.filemode(status.st_mode), status.st_uid, status.st_gid, content, _xattrs(path), when, inode)


def read_view(rootfs: Rootfs) -> dict[str, tuple[object, ...]]:
    """What :func:`read_tree` says, ``digested``, of a view that is nowhere on disk as a whole."""
    found: dict[str, tuple[object, ...]] = {}
    for node in rootfs.tree.walk():
        shown = os.fsdecode(b"/".join(node.path))
        content: object = None
        if node.is_regular:
            with os.fdopen(node.open(), "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        elif node.is_symlink:
            content = os.fsdecode(node.readlink())
        elif stat.S_ISCHR(node.stat.st_mode) or stat.S_ISBLK(node.stat.st_mode):
            content = node.stat.st_rdev
        inode = None if node.is_directory else (node.stat.st_dev, node.stat.st_ino)
        attributes = {os.fsdecode(name): value for name, value in sorted(node.xattrs().items())}
        status = node.stat
        found[shown] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, content, attributes,
                        status.st_mtime_ns, inode)  # fmt: skip
    return grouped(found)


def file_digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(path: str) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise


def give_default_acl(directory: Path) -> None:
    """A default access list that lets everybody, and user 1 by name, do all; skips where there are no such lists."""
    # POSIX.1e: version 2, then (tag, permissions, id): owner, a named user, group, mask, others.
    anybody = 0xFFFFFFFF
    entries = [(1, 7, anybody), (2, 7, 1), (4, 7, anybody), (16, 7, anybody), (32, 7, anybody)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(directory, "system.posix_acl_default", struct.pack("<I", 2) + packed)
    except OSError:
        pytest.skip("this file system has no access lists")


def open_descriptors() -> set[str]:
    """Numbers of the descriptors this process has open, but for the one that asks."""
    return set(os.listdir("/proc/self/fd"))


@contextmanager
def place_of_nobody() -> Iterator[Path]:
    """A directory that a user without privileges owns and can reach. Where the tests run as such a user: theirs."""
    place = Path(tempfile.mkdtemp(prefix="imgpull-test-"))
    try:
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
        yield place
    finally:
        for directory, names, _ in os.walk(place):
            for name in names:
                path = os.path.join(directory, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(place)


def as_nobody(act: Callable[[], object]) -> object:
    """What ``act`` returns (it must be JSON) when a process without privileges runs it. Its exception is a failure."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(act, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = json.loads(pipe.read() or b'{"error": "the child died"}')
    os.waitpid(child, 0)
    if "error" in answer:
        pytest.fail(answer["error"])
    return answer["result"]


def _answer(act: Callable[[], object], fd: int) -> None:
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        answer = {"result": act()}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    try:
        os.write(fd, json.dumps(answer).encode())
    finally:
        os._exit(0)
