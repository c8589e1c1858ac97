"""Applies one layer's entries to a directory of its own, so that it and its journal over the parents' view equal the
parents' tree with the layer unpacked onto it (image-spec layer.md, "Applying Changesets").

Rules where tools differ (docs/decisions):

- the last entry of a name wins; a directory over a directory keeps the contents and takes the attributes;
- ``..`` in a name is refused, a lower_links ``/`` means nothing, targets of symbolic links are kept verbatim;
- an entry whose parent is a symbolic link goes where the link leads inside the root, a directory entry *over* a
  symbolic link replaces it;
- a parent that only lower layers have keeps its attributes; one that nobody has is 0755, root's, of 1970;
- whiteouts mean lower layers whatever their order: see :mod:`imgpull.unpack.whiteouts`.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from imgpull.limits import Limits
from imgpull.locking import Cancellation
from imgpull.store.snapshots.layer import Journal
from imgpull.store.snapshots.merged import MergedTree
from imgpull.unpack.assumption import LowerLinks
from imgpull.unpack.entry import Entry, Kind
from imgpull.unpack.links import HardLinks
from imgpull.unpack.marks import Marks
from imgpull.unpack.metadata import Attributes, Metadata, attributes_of
from imgpull.unpack.owntree import Directory, OwnTree
from imgpull.unpack.paths import WHITEOUT_PREFIX, Paths
from imgpull.unpack.refusals import exceeded, invalid, typed_errors, unsafe
from imgpull.unpack.settlement import settle
from imgpull.unpack.tar import TarReader
from imgpull.unpack.whiteouts import WhiteoutOrderError, Whiteouts

__all__ = ["Applied", "Applier", "WhiteoutOrderError"]

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600
_NOT_PLAIN = (b"", b".", b"..")
_MAJOR_MAX, _MINOR_MAX = 2**12 - 1, 2**20 - 1
"""Linux device numbers; what is larger would be cut off by mknod without a word."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a layer."""

    journal: Journal
    entries: int
    """Entries in the archive, whiteouts included."""
    size_bytes: int
    """Of this layer's own regular files."""
    inodes: int
    """This layer's own, its root directory included."""
    skipped: Counter[str]
    """What was left out (devices, owners, attributes) by reason; empty for a privileged process and most images."""


class Applier:
    """Applies one archive, once: :meth:`make`, then :meth:`settle`. Use it in a ``with`` block.

    ``root_fd`` is an empty directory that nobody else writes to, opened for reading; it stays the caller's.
    ``lower_links``: the parents, or what is assumed of them; then :meth:`holds` must be asked before settling.
    ``privileged``: owners, devices and privileged attributes are set, not skipped. ``hidden``: see
    :class:`WhiteoutOrderError`. ``expected``: see :class:`OwnTree`. Each method that reads entries or looks at the
    parents raises PullCancelledError once ``cancel`` has fired.
    """

    def __init__(
        self,
        root_fd: int,
        lower_links: LowerLinks,
        *,
        privileged: bool,
        limits: Limits,
        layer: str,
        hidden: Marks | None = None,
        cancel: Cancellation | None = None,
        expected: dict[bytes, threading.Event] | None = None,
    ) -> None:
        self._limits = limits
        self._cancel = cancel or Cancellation()
        self._layer = layer
        self._tree = OwnTree(root_fd, expected)
        self._lower_links = lower_links
        self._paths = Paths(self._tree, lower_links, limits, layer)
        if hidden is not None:
            self._paths.hidden = hidden
        self._metadata = Metadata(root_fd, layer, privileged=privileged)
        self._whiteouts = Whiteouts(self._tree, limits, layer)
        self._links = HardLinks(self._tree, self._paths, lower_links.known, self._metadata, layer, self._cancel)
        self._previous: Attributes | None = None
        self._entries = 0
        self._name = b""  # of the entry that is being made
        self._make: dict[Kind, Callable[[Entry, Directory, bytes], None]] = {
            "directory": self._directory,
            "symlink": self._symlink,
            "hardlink": self._links.make,
            "char": self._device,
            "block": self._device,
            "fifo": self._fifo,
        }

    def make(self, reader: TarReader) -> None:
        """Read all entries and make them; what lies behind the archive is the caller's to drain.

        Raises UnsafeEntryError, InvalidArchiveError, LimitExceededError, StoreFullError, StoreError, and what the
        reader's source raises. After an error the directory is to be thrown away.
        """
        with typed_errors(self._layer, lambda: self._name):
            for entry in reader:
                self._cancel.raise_if_cancelled()
                self._entries += 1
                self._name = entry.name
                self._apply_entry(entry, reader)

    @property
    def assumes(self) -> bool:
        """Whether what was made, or refused, rests on anything that only the parents can tell."""
        return self._lower_links.assumes or self._links.awaits

    def holds(self, lower: MergedTree) -> bool:
        """Whether what was made without knowing the parents is what would have been made upon ``lower``."""
        return self._lower_links.holds(lower, self._cancel) and self._links.holds(lower)

    def settle(self, lower: MergedTree) -> Applied:
        """Do what only the whole layer and its parents can tell. Raises as :meth:`make`, and WhiteoutOrderError."""
        tree, paths = self._tree, self._paths
        paths.hidden = Marks()  # no name is resolved any more, and a layer of 2·10⁵ markers needs the memory
        with typed_errors(self._layer, b""):
            journal = settle(tree, lower, self._links, self._whiteouts, paths.lower_links, self._metadata, self._cancel)
        return Applied(journal, self._entries, tree.size_bytes, tree.inodes, self._metadata.skipped)

    def _apply_entry(self, entry: Entry, reader: TarReader) -> None:
        name = entry.name
        if len(name) > self._limits.path_bytes:
            raise exceeded(self._layer, name, f"has a name of {len(name)} bytes", "path_bytes")
        plain = name.rstrip(b"/")
        cut = plain.rfind(b"/") + 1
        prefix, base = plain[:cut], plain[cut:]
        if base in _NOT_PLAIN or WHITEOUT_PREFIX in plain:
            parts = [part for part in plain.split(b"/") if part not in (b"", b".")]
            if b".." in parts:
                raise unsafe(self._layer, name, "has '..' in its name")
            if not parts:
                self._root(entry)
                return
            if WHITEOUT_PREFIX in plain and self._whiteouts.take(entry, parts, self._paths):
                return
            prefix, base = b"/".join(parts[:-1]), parts[-1]
        parent = self._paths.parent(prefix, name) if prefix else self._tree.root
        if entry.kind == "file":
            self._file(entry, parent, base, reader)
        else:
            self._make[entry.kind](entry, parent, base)

    # -- one method a kind ---------------------------------------------------------------------------------------

    def _root(self, entry: Entry) -> None:
        if entry.kind != "directory":
            raise unsafe(self._layer, entry.name, f"would make the root directory a {entry.kind}")
        self._tree.root.attributes = attributes_of(entry)

    def _directory(self, entry: Entry, parent: Directory, base: bytes) -> None:
        directory = parent.children.get(base) or self._paths.make_directory(parent, base)
        directory.attributes = attributes = attributes_of(entry)
        if attributes == self._previous:  # thousands of directories share one value
            directory.attributes = self._previous
        self._previous = attributes

    def _file(self, entry: Entry, parent: Directory, base: bytes, reader: TarReader) -> None:
        self._paths.placing(parent, base)
        try:
            fd = os.open(base, _CREATE, _PRIVATE, dir_fd=self._tree.fd(parent))
        except FileExistsError:
            self._paths.clear(parent, base)
            fd = os.open(base, _CREATE, _PRIVATE, dir_fd=self._tree.fd(parent))
        try:
            for piece in reader.payload():
                written = os.write(fd, piece)
                while written < len(piece):
                    written += os.write(fd, piece[written:])
            true_mode = self._metadata.finish_file(fd, entry)
        finally:
            os.close(fd)
        self._tree.inodes += 1
        self._tree.size_bytes += entry.size_bytes
        if true_mode is not None:
            self._tree.modes[(*parent.path, base)] = true_mode

    def _symlink(self, entry: Entry, parent: Directory, base: bytes) -> None:
        if not entry.linkname:
            raise invalid(self._layer, entry.name, "is a symbolic link to nothing")
        self._special(entry, parent, base, lambda fd: os.symlink(entry.linkname, base, dir_fd=fd))
        if self._tree.expected:
            self._tree.appeared(parent, base)

    def _fifo(self, entry: Entry, parent: Directory, base: bytes) -> None:
        self._special(entry, parent, base, lambda fd: os.mkfifo(base, _PRIVATE, dir_fd=fd))

    def _device(self, entry: Entry, parent: Directory, base: bytes) -> None:
        major, minor = entry.devmajor, entry.devminor
        if not (0 <= major <= _MAJOR_MAX and 0 <= minor <= _MINOR_MAX):
            raise unsafe(self._layer, entry.name, f"has device number {major}:{minor}, which Linux does not have")
        if entry.kind == "char" and major == minor == 0:
            raise unsafe(self._layer, entry.name, "is character device 0:0, overlayfs' own whiteout")
        if not self._metadata.privileged:
            self._metadata.skipped["devices (not root)"] += 1
            return
        mode = _PRIVATE | (stat.S_IFCHR if entry.kind == "char" else stat.S_IFBLK)
        number = os.makedev(major, minor)
        try:
            self._special(entry, parent, base, lambda fd: os.mknod(base, mode, number, dir_fd=fd))
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            self._metadata.skipped["devices (not permitted)"] += 1

    def _special(self, entry: Entry, parent: Directory, base: bytes, make: Callable[[int], None]) -> None:
        self._paths.placing(parent, base)
        try:
            make(self._tree.fd(parent))
        except FileExistsError:
            self._paths.clear(parent, base)
            make(self._tree.fd(parent))
        self._tree.inodes += 1
        self._metadata.finish_special(
            self._tree.fd(parent), base, attributes_of(entry), entry.name, link=entry.kind == "symlink"
        )

    # -- life cycle ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the descriptors held; what needs one again opens it again."""
        self._tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
