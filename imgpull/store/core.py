"""What all handles on one store directory share within this process: one database, one table of live refs, one of
everything that must exist once, such as the keyed lock.

A directory is known by device and inode, so two paths to it are one store. The core keeps the directory open: its
inode number can't be given to another directory meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from imgpull.errors import StoreError
from imgpull.store.database import Database
from imgpull.store.durability import SYNCS, Durability
from imgpull.store.filesystem import make_directory, refuse_network_filesystem, translated
from imgpull.store.ingest import LiveRefs

__all__ = ["Core", "acquire", "release"]

T = TypeVar("T")

_DIRECTORIES = ("blobs", "blobs/sha256", "ingest", "snapshots")
# What a store may find in its directory before it has a database: an empty file system's own directory, and what
# another process that is making the same store has got to.
_OWN_NAMES = frozenset(
    ("lost+found", "blobs", "ingest", "snapshots", "metadata.lock", "metadata.db-journal", "keys.lock")
)


class Core:
    """One store directory, opened once. Made by :func:`acquire`, closed by the last :func:`release`."""

    def __init__(self, root: str, fd: int, *, read_only: bool) -> None:
        self.root = root
        self.fd = fd
        """The open directory: for syncfs."""
        self.read_only = read_only
        self.process = os.getpid()
        self.identity = _identity(fd)
        self.live = LiveRefs()
        self.handles = 0
        """Guarded by the registry's lock."""
        self._database: Database | None = None
        # Guards the opening: whoever comes second waits until there is something to share, or opens it himself.
        self._opening = threading.Lock()
        # Guards _shared. Re-entrant, as making one shared object may ask for another.
        self._sharing = threading.RLock()
        self._shared: dict[str, Any] = {}

    @property
    def database(self) -> Database:
        if self._database is None:
            raise StoreError(f"the store {self.root} is closed: open it again with imgpull.Store", path=self.root)
        return self._database

    def open(self, durability: Durability) -> None:
        """Make what is missing on the disk, and open the database. Raises StoreError."""
        with self._opening:
            if self._database is None:
                refuse_network_filesystem(self.root)
                if not self.read_only:
                    _prepare(self.root, durability)
                self._database = Database(
                    f"{self.root}/metadata.db",
                    f"{self.root}/metadata.lock",
                    read_only=self.read_only,
                    durability=durability,
                )
            self._database.require(durability)

    def process_wide(self, factory: Callable[[], T], name: str) -> T:
        """The one object of this name; made by ``factory`` for whoever asks first, gone with the last handle."""
        with self._sharing:
            if name not in self._shared:
                self._shared[name] = factory()
            found: T = self._shared[name]
            return found

    def close(self) -> None:
        """Close what was opened, what is shared first. A second call does nothing."""
        with self._sharing:
            shared, self._shared = self._shared, {}
        for thing in reversed(shared.values()):
            if callable(close := getattr(thing, "close", None)):
                close()
        with self._opening:
            database, self._database = self._database, None
            if database is not None:
                database.close()
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)


class _Registry:
    """The open cores of this process, by device, inode and whether they are read-only."""

    def __init__(self) -> None:
        # Guards cores and every core's count of handles. Nothing is opened or closed under it.
        self.lock = threading.Lock()
        self.cores: dict[tuple[int, int, bool], Core] = {}
        self.inherited: list[Core] = []

    def join(self, root: str, fd: int, *, read_only: bool) -> Core:
        with self.lock:
            key = (*_identity(fd), read_only)
            core = self.cores.get(key)
            if core is None:
                core = self.cores[key] = Core(os.path.realpath(root), os.dup(fd), read_only=read_only)
            core.handles += 1
            return core

    def leave(self, core: Core) -> bool:
        """Whether that was the last handle."""
        with self.lock:
            core.handles -= 1
            if core.handles > 0:
                return False
            key = (*core.identity, core.read_only)
            if self.cores.get(key) is core:
                del self.cores[key]
            return True

    def close_all(self) -> None:
        """At exit: a store that nobody closed still gets its checkpoint."""
        with self.lock:
            cores = list(self.cores.values())
            self.cores.clear()
        for core in cores:
            with contextlib.suppress(StoreError):
                core.close()

    def forget_all(self) -> None:
        """In a forked child. SQLite must not be used across a fork, not even to close it: what was inherited is kept
        for ever, untouched, so that no garbage collector closes it."""
        self.lock = threading.Lock()
        self.inherited.extend(self.cores.values())
        self.cores.clear()


_registry = _Registry()
atexit.register(_registry.close_all)
os.register_at_fork(after_in_child=_registry.forget_all)


def acquire(root: str, *, durability: Durability, read_only: bool) -> Core:
    """The core of the directory ``root``, opened; made where there is none. Give it back with :func:`release`.

    Read-only handles have a core of their own: they must work where nothing can be written.
    """
    fd = _open_directory(root, read_only)
    try:
        with translated("open the store", root):
            core = _registry.join(root, fd, read_only=read_only)
    finally:
        os.close(fd)
    try:
        core.open(durability)
    except BaseException:
        release(core)
        raise
    return core


def release(core: Core) -> None:
    """Give up one handle; the last one closes the core."""
    if _registry.leave(core):
        core.close()


def _open_directory(root: str, read_only: bool) -> int:
    if read_only and not os.path.isdir(root):
        raise StoreError(f"no store at {root}: pull something into it first", path=root)
    with translated("open the store", root):
        if not read_only:
            os.makedirs(os.path.dirname(root), exist_ok=True)
            make_directory(root)
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _prepare(root: str, durability: Durability) -> None:
    _refuse_what_is_no_store(root)
    with translated("make the store", root):
        made = [make_directory(f"{root}/{name}") for name in _DIRECTORIES]
        if any(made):
            for path in (f"{root}/blobs", root, os.path.dirname(root)):
                SYNCS[durability].directory(path)


def _refuse_what_is_no_store(root: str) -> None:
    """A store writes ``index.json`` afresh and makes its directory private: neither may happen to somebody else's."""
    with translated("open the store", root):
        names = set(os.listdir(root))
        if "metadata.db" in names:
            return
        if {"index.json", "oci-layout"} & names:
            raise StoreError(
                f"{root} holds an OCI layout without metadata.db (another tool's, or a store that lost its database): "
                "name another directory, and bring the images in with imgpull load",
                path=root,
            )
        if foreign := sorted(names - _OWN_NAMES):
            raise StoreError(
                f"{root} is no store and holds other files ({foreign[0]} …): name an empty directory", path=root
            )
        with contextlib.suppress(PermissionError):  # a mount point of somebody else's: what is below is private anyway
            os.chmod(root, 0o700)


def _identity(fd: int) -> tuple[int, int]:
    stat = os.fstat(fd)
    return stat.st_dev, stat.st_ino
