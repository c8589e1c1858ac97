"""metadata.db: what the store knows about the files it holds. The only package that touches SQLite.

Words
    *write*      a function of the write connection. It runs on the writer thread, in a savepoint of a transaction it
                 shares with whatever else was queued, under the store's lock. It must only touch the connection: it may
                 run a second time when the transaction it was in is lost, and everybody else's write waits for it.
                 (Some look at a blob's file as well, and one unlinks it: docs/decisions/dropped-blobs.md.)
    *rider*      a write that nobody waits for: what it says can be learnt from a file of the store as well. While a
                 pull gathers, riders wait for the next write that somebody waits for, and are committed with it.
    *query*      one SELECT, on a connection of its own; it sees the last commit and neither waits nor makes wait.

A file of the store is published *before* the write that records it, and deleted *after* the write that forgets it: the
database never names a file that may not be there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from sqlite3 import Connection, Row
from typing import TypeVar

from imgpull.errors import StoreError
from imgpull.store.database import connection as connections
from imgpull.store.database import schema
from imgpull.store.database.writer import GroupWriter
from imgpull.store.durability import Durability
from imgpull.store.filesystem import FileLock

__all__ = ["Connection", "Database", "Row"]

_logger = logging.getLogger("imgpull.store")

T = TypeVar("T")


class Database:
    """One database, for all threads of one process.

    ``path`` is never opened by anything but SQLite: closing any other descriptor of it would drop SQLite's own locks
    (sqlite.org/howtocorrupt.html §2.2). ``lock_path`` is the file whose flock serialises all writes of all processes.

    Opening creates the tables or brings them up to date; with ``read_only`` it does neither. Raises StoreError,
    StoreFullError, StoreCorruptError; so does every method.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        lock_path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        durability: Durability = "full",
    ) -> None:
        self.path = os.fspath(path)
        self.read_only = read_only
        self._process = os.getpid()
        self._closed = False
        self._lock_path = os.fspath(lock_path)
        self._readers = connections.ReadPool(self.path, self._lock_path, read_only=read_only)
        self._writer = GroupWriter(self.path, self._lock_path)
        self.require(durability)
        try:
            self._prepare()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise connections.fault(error, self.path) from error
            raise

    @property
    def transactions(self) -> int:
        """Transactions committed by this process since it opened the database."""
        return self._writer.transactions

    def require(self, durability: Durability) -> None:
        """From here on commits are at least this durable: what one user of a shared database asks for, all get."""
        if durability == "full":
            self._writer.synchronous = "FULL"

    def write(self, do: Callable[[Connection], T], *, alone: bool = False) -> T:
        """Run ``do`` as a write and return its result once it is committed (and, with ``"full"``, on the disk).

        What ``do`` raises undoes what it did and is raised here; other writes of the same transaction don't notice.
        ``alone``: in a transaction of its own. For one that does what no rollback undoes: it sees only what is
        committed, where it would see what others of its transaction wrote, which a crash or a full disk takes back.
        """
        self.check_writable()
        return self._writer.write(do, alone=alone)

    def ride(self, do: Callable[[Connection], object]) -> None:
        """Run ``do`` as a rider while anybody gathers, else as a write. It must not undo what another process knew
        and wrote in between."""
        self.check_writable()
        if not self._writer.ride(do):
            self.write(do)

    def gathering(self) -> AbstractContextManager[None]:
        """A block that will end with a write of its own, which takes along the riders until then. Where it does not,
        by an error, they are written without it."""
        return self._writer.gathering()

    def check_writable(self) -> None:
        """Raises StoreError where nothing can be written: opened read-only, closed, or inherited by a fork. For those
        who are about to write a file that a row is to follow."""
        self._check()
        if self._closed:
            raise connections.closed(self.path)
        if self.read_only:
            raise StoreError(f"the store of {self.path} was opened read-only: nothing can be written", path=self.path)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """The rows of one SELECT."""
        self._check()
        try:
            return self._readers.query(sql, parameters)
        except sqlite3.Error as error:
            raise connections.fault(error, self.path) from error

    def close(self) -> None:
        """Let queued writes finish and close every connection. A second call does nothing.

        In a forked child it does nothing at all: the connections are the parent's.
        """
        if self._process == os.getpid():
            self._closed = True
            self._writer.stop()
            self._readers.close()

    def _check(self) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"{self.path} was opened before this process was forked: use the Store, which opens it again",
                path=self.path,
            )

    def _prepare(self) -> None:
        if self.read_only and not os.path.exists(self.path):
            raise StoreError(f"no store at {os.path.dirname(self.path)}: pull something into it first", path=self.path)
        if self._is_current():
            return
        if self.read_only:
            raise StoreError(
                f"the database {self.path} was written by an earlier imgpull: open the store once without read_only",
                path=self.path,
            )
        if self._has_pages():
            schema.load()
        lock = FileLock(self._lock_path)
        try:
            with lock:
                self._bring_up_to_date()
        finally:
            lock.close()

    def _is_current(self) -> bool:
        """Looked at without the lock: opening a current database must not wait for somebody's commit."""
        if not self._has_pages():
            return False
        return schema.is_current(self._readers.query("PRAGMA user_version", ())[0][0], self.path)

    def _has_pages(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self.path).st_size > 0
        return False

    def _bring_up_to_date(self) -> None:
        with contextlib.closing(connections.connect(self.path)) as connection:
            # Kept in the file itself. It can be set outside a transaction only, and by one process at a time.
            connection.execute("PRAGMA journal_mode=WAL")
            schema.bring_up_to_date(connection, self.path)
            _logger.debug("%s is at schema %d", self.path, schema.VERSION)
