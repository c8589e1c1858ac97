"""Store: one directory that holds images, and the handle on it."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, get_args

from imgpull.errors import StoreError
from imgpull.locking import KeyedLock, KeyedMutex, ProcessKeys
from imgpull.store import core as cores
from imgpull.store.blobs import Blobs
from imgpull.store.content import ContentStore
from imgpull.store.core import Core
from imgpull.store.database import Database
from imgpull.store.durability import SYNCS, Durability
from imgpull.store.images import Image, Images
from imgpull.store.ingest import Ingests
from imgpull.store.layout import Layout

if TYPE_CHECKING:
    from imgpull.store.snapshots import Snapshots

__all__ = ["Parts", "Store", "default_root"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a store consists of, as this process has it open: usable until the last handle of any is closed, and not
    only this one. For work that serves callers with handles of their own."""

    core: Core
    content: ContentStore
    images: Images
    snapshots: Snapshots


class Store:
    """A handle on the store in the directory ``root``; use it in a ``with`` block, or close it.

    ``root``        default: ``$IMGPULL_HOME``, else ``$XDG_DATA_HOME/imgpull``, else ``~/.local/share/imgpull``. Made
                    where it is missing; an existing directory must be empty or a store, on a local file system.
    ``durability``  ``"full"``: what was committed survives a power cut. ``"none"``: it survives this process.
    ``read_only``   for a directory that can't or must not be written to.

    Open as many as you like, in threads and processes: handles on one directory share what must exist once. After
    ``os.fork`` a handle opens its store again by itself. Raises StoreError, StoreFullError, StoreCorruptError.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, durability: Durability = "full", read_only: bool = False
    ) -> None:
        self._parts: Parts | None = None
        if durability not in get_args(Durability):
            raise StoreError(f"durability {durability!r} is unknown: use 'full' or 'none'")
        self._root = Path(os.path.abspath(default_root() if root is None else root))
        self._durability: Durability = durability
        self._read_only = read_only
        # Guards _parts: opening again after a fork, and closing.
        self._lock = threading.Lock()
        self._parts = self._open()

    @property
    def root(self) -> Path:
        """The store's directory: an OCI image layout that other tools may read."""
        return self._root

    @property
    def durability(self) -> Durability:
        return self._durability

    @property
    def read_only(self) -> bool:
        return self._read_only

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the directory: equal for all handles on one store."""
        return self._live().core.identity

    @property
    def parts(self) -> Parts:
        return self._live()

    @property
    def content(self) -> ContentStore:
        """Blobs by digest."""
        return self._live().content

    @property
    def images(self) -> Images:
        """Image records by reference and platform."""
        return self._live().images

    @property
    def snapshots(self) -> Snapshots:
        """Unpacked layers by ChainID."""
        return self._live().snapshots

    @property
    def database(self) -> Database:
        """metadata.db: for the rooms of this library that keep a table of their own."""
        return self._live().core.database

    @property
    def keyed_lock(self) -> KeyedLock:
        """The keyed lock that all handles on this directory share, in this process and with all others.

        Within this process alone where nothing can be written, and on systems without the locks of Linux."""
        core = self._live().core
        among_processes = sys.platform == "linux" and not core.read_only
        return core.process_wide(
            lambda: ProcessKeys(f"{core.root}/keys.lock") if among_processes else KeyedMutex(), "keyed_lock"
        )

    def process_wide(self, factory: Callable[[], T], name: str) -> T:
        """The one object called ``name`` that all handles on this directory share in this process.

        ``factory`` makes it for whoever asks first. It is dropped with the last handle; its ``close()`` is called then,
        where it has one."""
        return self._live().core.process_wide(factory, name)

    def unpack(self, image: Image | str, target: str | os.PathLike[str]) -> None:
        """Write an image's root file system (or the one of a ChainID) to ``target``: an ordinary directory tree of its
        own, which shares nothing with the store. ``target`` is made where it is missing, and must be empty.

        Raises SnapshotNotFoundError where the image was not unpacked into the store, AlreadyExistsError where
        ``target`` holds anything."""
        self.snapshots.unpack(image.chain_id if isinstance(image, Image) else image, target)

    def close(self) -> None:
        """Give the handle up; the last one writes the database back and closes it. A second call does nothing."""
        with self._lock:
            parts, self._parts = self._parts, None
        if parts is not None and parts.core.process == os.getpid():
            cores.release(parts.core)

    def __enter__(self) -> Self:
        self._live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not closed here: a finaliser runs in any thread at any instruction, and closing waits for the disk.
        if self._parts is not None:
            warnings.warn(f"unclosed store {self._root}", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<Store {self._root}{'' if self._parts else ', closed'}>"

    def _live(self) -> Parts:
        parts = self._parts
        if parts is None:
            raise StoreError(f"the store {self._root} is closed: open it again", path=str(self._root))
        if parts.core.process != os.getpid():
            with self._lock:
                if self._parts is parts:
                    self._parts = self._open()
            return self._live()
        return parts

    def _open(self) -> Parts:
        core = cores.acquire(str(self._root), durability=self._durability, read_only=self._read_only)
        try:
            return self._make_parts(core)
        except BaseException:
            cores.release(core)
            raise

    def _make_parts(self, core: Core) -> Parts:
        from imgpull.store.snapshots import Snapshots

        layout = core.process_wide(lambda: Layout(core.root, core.database, self._blobs(core)), "layout")
        if not self._read_only:
            layout.ensure()
        snapshots = core.process_wide(
            lambda: Snapshots(
                Path(core.root, "snapshots"),
                core.database,
                durable=self._durability == "full",
                read_only=self._read_only,
            ),
            f"snapshots, durability {self._durability}",
        )
        images = Images(core.database, layout, self._blobs(core))
        return Parts(core, self._make_content(core, layout), images, snapshots)

    def _make_content(self, core: Core, layout: Layout, kind: type[ContentStore] = ContentStore) -> ContentStore:
        """The seam for another content store: override, and call this one with another ``kind``."""
        return kind(
            core.database,
            self._blobs(core),
            Ingests(f"{core.root}/ingest"),
            core.live,
            listed_changed=layout.refresh,
        )

    def _blobs(self, core: Core) -> Blobs:
        return Blobs(f"{core.root}/blobs", SYNCS[self._durability])


def default_root() -> Path:
    """Where the store is when nobody says. Raises StoreError where there is no home directory either."""
    if home := os.environ.get("IMGPULL_HOME"):
        return Path(home)
    data = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(data):  # the XDG specification has a relative one ignored
        return Path(data, "imgpull")
    try:
        return Path.home() / ".local" / "share" / "imgpull"
    except RuntimeError as error:
        raise StoreError("there is no home directory to keep the store in: set IMGPULL_HOME") from error
