"""The one thread that writes to metadata.db.

Every write of every thread is queued to it. It takes all that are queued, takes the store's lock, makes one
transaction of them, commits, and then tells each how it went: *group commit*. A commit costs one fsync, so twenty
threads that write at once pay for one or two and not for twenty.

A *rider* is a write that nobody waits for: what it says can be learnt from the store's files as well. While anybody
gathers, it lies here until a write comes that somebody waits for, and goes into the same transaction, before it: a pull
of forty layers is one transaction. (To let the thread sleep a few milliseconds, in case more comes, was rejected: each
caller would wait for that sleep.)

The lock is a blocking flock, taken before ``BEGIN IMMEDIATE``. SQLite's own answer to "somebody else is writing" is to
sleep and try again; measured with twenty processes, that left one of them waiting for 2.4 s and starved another, while
the lock is handed on in turn (median 19 ms, maximum 128). Because every commit, checkpoint and close in every process
happens under it, the WAL-reset bug of SQLite before 3.51.3 (two connections that write and checkpoint at the same
instant) can't happen either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from imgpull.errors import StoreError
from imgpull.store.database import connection as connections
from imgpull.store.filesystem import FileLock

__all__ = ["GroupWriter"]

_logger = logging.getLogger("imgpull.store")

T = TypeVar("T")

_RIDERS = 256
"""More go at once: an image has at most some five hundred layers, but nothing says how many pulls gather."""
_CHECKPOINT_BYTES = 16 * 1024 * 1024
"""Above this the log is written back into the database and cut: a thousand pulls without a checkpoint left 178 MB."""


class _Write:
    """One queued write: what to do, and how it went."""

    __slots__ = ("alone", "do", "done", "error", "result", "rides")

    def __init__(
        self,
        do: Callable[[sqlite3.Connection], Any],
        *,
        alone: bool = False,
        rides: bool = False,
    ) -> None:
        self.do = do
        self.alone = alone
        self.rides = rides
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()


class GroupWriter:
    """Queue, thread and write connection. The thread starts with the first write and ends with :meth:`stop`.

    It is a daemon thread: a store that nobody closed must not keep the interpreter from exiting. A commit that is cut
    off there is rolled back when the database is opened next; its caller was not told that it had succeeded.
    """

    def __init__(self, path: str, lock_path: str) -> None:
        self._path = path
        self._file_lock = FileLock(lock_path)
        self.synchronous = "NORMAL"
        """``FULL``: a commit survives a power cut. ``NORMAL``: it may be lost then, but nothing is damaged."""
        self.transactions = 0
        """Commits made: with group commit, at most the number of writes."""
        # Lists, so that riders and the write that takes them along are seen at once.
        self._queue: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        # Guards _thread and _stopped, and with them that nothing is queued behind the end mark; _gatherers, _riders.
        self._lock = threading.Lock()
        self._gatherers = 0
        self._riders: list[_Write] = []
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._connection: sqlite3.Connection | None = None

    def write(self, do: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> T:
        """Run ``do`` in a transaction (of its own, where it is to be ``alone``) and return its result once it is
        committed. Raises what ``do`` raises.

        A write made from within a write is part of it: queued, it would wait for itself.
        """
        if threading.current_thread() is self._thread:
            assert not alone, "a write that is part of another cannot be alone"
            return self._nested(do)
        write = _Write(do, alone=alone)
        with self._lock:
            self._check_running()
            self._send(write)
        write.done.wait()
        if write.error is not None:
            raise write.error
        result: T = write.result
        return result

    def ride(self, do: Callable[[sqlite3.Connection], object]) -> bool:
        """Run ``do`` with the next write that somebody waits for; False, and nothing, where nobody gathers.

        What it fails with is logged: a file says the same, and whoever finds no row asks that."""
        with self._lock:
            if not self._gatherers or threading.current_thread() is self._thread:
                return False
            self._check_running()
            self._riders.append(_Write(do, rides=True))
            if len(self._riders) >= _RIDERS:
                self._send()
            return True

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """While any of these blocks runs, riders wait for a write to go with; when the last ends they go alone."""
        with self._lock:
            self._gatherers += 1
        try:
            yield
        finally:
            with self._lock:
                self._gatherers -= 1
                if self._riders and not self._gatherers and not self._stopped:
                    self._send()

    def stop(self) -> None:
        """Let the queued writes finish, end the thread and close the connection. A second call does nothing."""
        with self._lock:
            if self._riders:
                self._send()
            already, self._stopped = self._stopped, True
            if not already and self._thread is not None:
                self._queue.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._file_lock.close()

    def _check_running(self) -> None:
        if self._stopped:
            raise connections.closed(self._path)

    def _send(self, *last: _Write) -> None:
        """Queue the riders and then ``last``. The lock is held."""
        self._start()
        riders, self._riders = self._riders, []
        self._queue.put([*riders, *last])

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="imgpull-writer", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise StoreError(f"cannot start the thread that writes {self._path}: {error}", path=self._path) from error
        self._thread = thread

    # What follows runs on the writer thread.

    def _run(self) -> None:
        ended = False
        while not ended:
            group, ended = self._take()
            if group:
                self._serve(group)
        self._close()

    def _take(self) -> tuple[list[_Write], bool]:
        """Everything that is queued, at least one; and whether the end mark was among it."""
        group: list[_Write] = []
        writes = self._queue.get()
        with contextlib.suppress(queue.Empty):
            while writes is not None:
                group.extend(writes)
                writes = self._queue.get_nowait()
            return group, True
        return group, False

    def _serve(self, group: list[_Write]) -> None:
        try:
            with self._file_lock:
                for together in _transactions(group):
                    self._commit(together)
                    self._tell(together)
                self._checkpoint()
        except BaseException as error:  # whatever it is, it belongs to those who wait, and the thread lives on
            untold = [write for write in group if not write.done.is_set()]
            for write in untold:
                write.error = error
            self._tell(untold)

    def _tell(self, group: list[_Write]) -> None:
        """Each how it went; of riders, which nobody waits for, the log."""
        for write in group:
            if write.rides and write.error is not None:
                _logger.warning("what is known of a file was not written to %s: %s", self._path, write.error)
            write.done.set()

    def _commit(self, group: list[_Write]) -> None:
        """One transaction for the group; where that is lost as a whole, one for each.

        SQLite ends a transaction by itself on a full disk or a failed write. Those that fit, deletions above all, must
        not fail with the one that did not.
        """
        try:
            self._transaction(group)
        except BaseException as error:
            if len(group) == 1:
                group[0].error = self._translated(error)
                return
            _logger.debug("a group of %d writes was lost (%s): each is made alone", len(group), error)
            for write in group:
                write.result = write.error = None
                self._commit([write])

    def _transaction(self, group: list[_Write]) -> None:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for write in group:
                self._apply(connection, write)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.transactions += 1

    def _apply(self, connection: sqlite3.Connection, write: _Write) -> None:
        """One write in a savepoint of its own, so that its failure is its caller's alone."""
        connection.execute("SAVEPOINT one_write")
        try:
            write.result = write.do(connection)
        except BaseException as error:
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO one_write")
            write.error = self._translated(error)
        connection.execute("RELEASE one_write")

    def _nested(self, do: Callable[[sqlite3.Connection], T]) -> T:
        write = _Write(do)
        self._apply(self._connected(), write)
        if write.error is not None:
            raise write.error
        result: T = write.result
        return result

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connections.connect(self._path, synchronous=self.synchronous)
            self._connection.row_factory = sqlite3.Row
        if not self._connection.in_transaction:  # a handle that wants "full" may have come since
            self._connection.execute(f"PRAGMA synchronous={self.synchronous}")
        return self._connection

    def _checkpoint(self) -> None:
        """Cut a log that has grown long. It waits for nobody: where a reader pins it, the next commit tries again."""
        connection = self._connection
        try:
            if connection is None or os.stat(f"{self._path}-wal").st_size <= _CHECKPOINT_BYTES:
                return
            timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
            connection.execute("PRAGMA busy_timeout=0")
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout={timeout}")
        except (OSError, sqlite3.Error) as error:
            # What was committed is safe in the log; a disk too full to write it back is the next writer's trouble.
            _logger.debug("no checkpoint of %s: %s", self._path, error)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            with self._file_lock:  # the last connection's close is a checkpoint
                connection.close()
        except StoreError as error:  # the directory is gone: nobody is left to exclude
            _logger.debug("closing %s without its lock: %s", self._path, error)
            connection.close()

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, sqlite3.Error):
            found = connections.fault(error, self._path)
            found.__cause__ = error
            return found
        return error


def _transactions(group: list[_Write]) -> list[list[_Write]]:
    """The group cut where one wants a transaction of its own, in the order in which they came."""
    cut: list[list[_Write]] = []
    for write in group:
        if not cut or write.alone or cut[-1][-1].alone:
            cut.append([])
        cut[-1].append(write)
    return cut
