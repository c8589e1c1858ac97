"""Connections to metadata.db, and SQLite's errors in the words of this library."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from imgpull.errors import StoreCorruptError, StoreError, StoreFullError
from imgpull.store.filesystem import FileLock

__all__ = ["ReadPool", "closed", "connect", "connect_reader", "fault"]

_BUSY_TIMEOUT_SECONDS = 5.0
"""How long to bear with a program that uses SQLite's locks but not ours (the sqlite3 shell). Among ourselves nobody
ever waits in SQLite: its busy handler sleeps and polls, and is what starved a process for 2.4 s under load."""
_IDLE_READERS = 8


def fault(error: sqlite3.Error, path: str) -> StoreError:
    """The store's error for SQLite's."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    # SHMSIZE is a failed growth of the -shm file, which is how a full disk shows before the first write.
    if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StoreFullError(f"no space left to write {path}: free space or quota there, and try again", path=path)
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorruptError(f"the database {path} is damaged ({error}): pull into a new store", path=path)
    return StoreError(f"the database {path} refused: {error}", path=path)


def closed(path: str) -> StoreError:
    """The error of whoever uses a store after its last handle was closed."""
    return StoreError(f"the store of {path} is closed: open it again with imgpull.Store", path=path)


def connect(path: str, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """A connection in autocommit mode (transactions are written out), usable by one thread after another.

    Raises sqlite3.Error."""
    connection = _open(path)
    try:
        connection.execute("PRAGMA foreign_keys=ON")
        # Checkpoints are made by the writer under the store's lock, never by SQLite as a commit's side effect.
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA fullfsync=ON")  # only macOS heeds it; there fsync stops at the drive's buffer
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: str, *, read_only: bool) -> sqlite3.Connection:
    """A connection that only ever reads. ``read_only``: the store's directory may be one that can't be written to.
    Raises sqlite3.Error."""
    connection = _connect_read_only(path) if read_only else connect(path)
    try:
        connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def _connect_read_only(path: str) -> sqlite3.Connection:
    uri = Path(path).as_uri()
    connection = _open(f"{uri}?mode=ro", uri=True)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if not isinstance(error, sqlite3.OperationalError):
            raise
        if os.path.exists(f"{path}-wal"):
            raise
        # A write-ahead log needs two files beside the database; a directory that can't be written may lack them.
        # No log means nobody has the database open, so it can be taken for unchanging.
        connection = _open(f"{uri}?immutable=1", uri=True)
    return connection


def _open(database: str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        database, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
    )


class ReadPool:
    """Read connections, as many as there were reads at the same instant, at most eight kept idle.

    A connection per thread was rejected: a thousand waiting pulls would hold three thousand descriptors, and the
    connection of a thread that ended would be closed by the garbage collector. The last close of a database is a
    checkpoint, so closing is a write and happens under the store's lock.
    """

    def __init__(self, path: str, lock_path: str, *, read_only: bool) -> None:
        self._path = path
        self._lock_path = lock_path
        self._read_only = read_only
        # Guards the two below; list operations only.
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    def query(self, sql: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        """All rows at once: an open cursor would pin the write-ahead log. Raises sqlite3.Error or StoreError."""
        connection = self._borrow()
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            self._give_back(connection)

    def _borrow(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise closed(self._path)
            if self._idle:
                return self._idle.pop()
        return connect_reader(self._path, read_only=self._read_only)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_READERS:
                self._idle.append(connection)
                return
        self._close([connection])

    def close(self) -> None:
        """Close those that are idle; one that is in use is closed when its query ends. A second call does nothing."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        self._close(idle)

    def _close(self, connections: list[sqlite3.Connection]) -> None:
        if self._read_only or not connections:
            for connection in connections:
                connection.close()
            return
        lock = FileLock(self._lock_path)
        try:
            with contextlib.suppress(StoreError):  # the directory is gone: nobody is left to exclude
                lock.acquire()
            for connection in connections:
                connection.close()
        finally:
            lock.close()
