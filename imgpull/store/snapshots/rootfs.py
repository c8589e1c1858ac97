"""A snapshot's file system for reading from the host: nothing in it can lead outside, and nothing in it can block."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, AnyStr, BinaryIO, Literal, Self, TextIO, overload

from imgpull.store.snapshots.layer import TreePath
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.node import Node

__all__ = ["AnyPath", "Rootfs"]

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A path inside the root. Absolute and relative mean the same, ``..`` stops at the root."""

_READING = frozenset({"r", "rt", "rb"})


class Rootfs:
    """The merged view of a committed snapshot, by paths as a program inside would use them.

    Symbolic links are followed inside the root, as in a chroot: an absolute target starts at the root. Only regular
    files are opened, so neither a FIFO nor a device an image put in place of ``etc/passwd`` can block or act
    (CVE-2024-9676). Errors are the operating system's own: FileNotFoundError, NotADirectoryError,
    IsADirectoryError, OSError(ELOOP). Safe for several threads. Use it as a context manager, or close it.
    """

    def __init__(self, tree: MergedTree, show: Callable[[], Path], on_close: Callable[[], None]) -> None:
        self._tree = tree
        self._show = show
        self._on_close = on_close
        # Guards the two fields below: one thread makes the directory, the others wait for it.
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._closed = False

    # -- reading -------------------------------------------------------------------------------------------------

    @overload
    def open(self, path: AnyPath, mode: Literal["rb"]) -> BinaryIO: ...

    @overload
    def open(
        self,
        path: AnyPath,
        mode: Literal["r", "rt"] = "r",
        *,
        encoding: str | None = "utf-8",
        errors: str | None = None,
        newline: str | None = None,
    ) -> TextIO: ...

    def open(
        self,
        path: AnyPath,
        mode: str = "r",
        *,
        encoding: str | None = "utf-8",
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a regular file for reading, as the built-in ``open`` does, with UTF-8 as the default encoding.

        Raises ValueError for a mode that would write, OSError(EINVAL) for a FIFO, socket or device.
        """
        if mode not in _READING:
            raise ValueError(f"mode {mode!r}: a snapshot can only be read, with 'r' or 'rb'")
        raw = io.FileIO(self._open_regular(path), "rb", closefd=True)
        buffered = io.BufferedReader(raw)
        if mode == "rb":
            return buffered
        return io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline=newline)

    def read_bytes(self, path: AnyPath, *, limit_bytes: int | None = None) -> bytes:
        """The whole file. Raises OSError(EFBIG) where it is longer than ``limit_bytes``: a sparse file of a terabyte
        costs its image nothing."""
        with self.open(path, "rb") as file:
            if limit_bytes is None:
                return file.read()
            content = file.read(limit_bytes + 1)
            if len(content) > limit_bytes:
                raise _error(errno.EFBIG, path)
            return content

    def read_text(
        self, path: AnyPath, encoding: str = "utf-8", errors: str | None = None, *, limit_bytes: int | None = None
    ) -> str:
        """The whole file as text. Raises as :meth:`read_bytes`, and UnicodeDecodeError."""
        content = self.read_bytes(path, limit_bytes=limit_bytes)
        return io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors=errors).read()

    def stat(self, path: AnyPath, *, follow_symlinks: bool = True) -> os.stat_result:
        """As ``os.stat``. ``st_nlink``, ``st_dev`` and ``st_ctime`` are the store's, not the image's."""
        return self._node(path, follow_last=follow_symlinks).stat

    def readlink(self, path: AnyStr | os.PathLike[AnyStr]) -> AnyStr:
        """Target of a symbolic link, verbatim. OSError(EINVAL) where it is none."""
        node = self._node(path, follow_last=False)
        if not node.is_symlink:
            raise _error(errno.EINVAL, path)
        return _like(path, node.readlink())

    def listdir(self, path: AnyStr | os.PathLike[AnyStr] = "/") -> list[AnyStr]:  # type: ignore[assignment]
        """Names in a directory, in byte order; bytes for a bytes path."""
        where = self._tree.resolve(_parts(path))
        try:
            return [_like(path, node.name) for node in self._tree.scan(where)]
        except NotADirectoryError:
            raise _error(errno.ENOTDIR, path) from None

    def walk(self, top: AnyPath = "/") -> Iterator[tuple[str, list[str], list[str]]]:
        """As ``os.walk``, top down: ``(dirpath, dirnames, filenames)``, links to directories among the dirnames and
        never walked into. Names taken out of ``dirnames`` are not visited. Nothing for a ``top`` that is no directory.
        """
        try:
            start = self._tree.resolve(_parts(top))
        except OSError:
            return
        pending = [(os.fsdecode(os.fspath(top)), start)]
        while pending:
            shown, where = pending.pop()
            node = self._tree.lookup(where)
            if node is None or not node.is_directory:
                continue
            directories: list[str] = []
            files: list[str] = []
            for child in self._tree.scan(where):
                (directories if self._leads_to_directory(child) else files).append(os.fsdecode(child.name))
            yield shown, directories, files
            pending.extend((os.path.join(shown, name), (*where, os.fsencode(name))) for name in reversed(directories))

    def _leads_to_directory(self, node: Node) -> bool:
        if not node.is_symlink:
            return node.is_directory
        try:
            target = self._tree.lookup(self._tree.resolve(node.path))
        except OSError:
            return False
        return target is not None and target.is_directory

    def _node(self, path: AnyPath, *, follow_last: bool = True) -> Node:
        try:
            where = self._tree.resolve(_parts(path), follow_last=follow_last)
        except OSError as error:
            raise _error(error.errno or errno.EIO, path) from None
        node = self._tree.lookup(where)
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def _open_regular(self, path: AnyPath) -> int:
        node = self._node(path)
        if node.is_directory:
            raise _error(errno.EISDIR, path)
        if not node.is_regular:
            raise OSError(errno.EINVAL, "not a regular file but a FIFO, socket or device", os.fsdecode(path))
        fd = node.open()
        # Layers don't change, but the rule is: what was opened is looked at, not only its name.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _error(errno.EINVAL, path)
        return fd

    @property
    def tree(self) -> MergedTree:
        """The merged view itself, for this library's own exports and checks; closed with this object."""
        return self._tree

    # -- for other programs --------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """An ordinary directory with the same tree, made at first use and gone after :meth:`close`: for tools that
        mount or exec. **Read only.** Where this process may mount, it is a read-only mount in the process's own mount
        namespace, and writing fails. Elsewhere its files are hard links into the store, so writing to one damages the
        snapshot and every image that shares the layer (``store.unpack`` makes a tree of your own).

        Raises StoreError."""
        with self._lock:
            if self._closed:
                raise ValueError("the view is closed: use its path inside the with block")
            if self._path is None:
                self._path = self._show()
            return self._path

    def close(self) -> None:
        """End or remove :attr:`path` and let go of the snapshot. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._tree.close()
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _parts(path: AnyPath) -> TreePath:
    return tuple(os.fsencode(path).split(b"/"))


def _like(path: AnyStr | os.PathLike[AnyStr], name: bytes) -> AnyStr:
    given = os.fspath(path)
    return name if isinstance(given, bytes) else os.fsdecode(name)


def _error(code: int, path: AnyPath) -> OSError:
    return OSError(code, os.strerror(code), os.fsdecode(path))
