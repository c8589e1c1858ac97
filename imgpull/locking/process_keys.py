"""One holder per key among all processes that use one file, and among the threads of each.

Two steps. A thread first gets the key among the threads of its process, from a :class:`KeyedMutex`: so only one thread
per process and key ever looks at the file. Then it locks the key's byte in the file, which mostly is one system call.
Where another process has that byte, a *watcher* waits for it.

The watcher
    A thread per key, started by whoever finds the byte taken. It waits in the kernel, so nobody polls, and writes the
    thread that wants the key into ``_holders``. That one sleeps where a cancel and a timeout can reach it. Should it
    give up, the watcher can't be called back: the next thread of this process that wants the key takes its place, and
    if there is none the watcher gives the byte up at once when it comes, and ends. So a thread outlives its purpose
    for as long as another process works, and never longer.

    Until its watcher has ended nobody else of this process touches a byte: all locks of a process are one owner's for
    the kernel, and the watcher could be granted what another thread has had and given up since.

The byte
    The first 63 bits of the key's SHA-256. Two keys on one byte would wait for each other between processes, and not
    see each other within one; among a million keys that are live at once the odds are one to twenty million, and what
    it costs is a wait, or the same work twice.

Order
    First come, first served among the threads of a process. Between processes the kernel wakes those that wait, and
    one that comes at that moment may be faster.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from imgpull.errors import LockTimeoutError, StoreError
from imgpull.locking.byte_locks import ByteLocks
from imgpull.locking.keyed_mutex import KeyedMutex
from imgpull.locking.thread_end import register

if TYPE_CHECKING:
    from imgpull.locking.cancellation import Cancellation

__all__ = ["ProcessKeys"]


class ProcessKeys:
    """A :class:`~imgpull.locking.KeyedLock` whose keys are those of every process that names the same file.

    ``path``: a file on a local file system, made when first needed and never removed. Entering a hold also raises
    :class:`~imgpull.StoreError` when the file can't be opened or locked.

    A child made by ``os.fork`` starts with an empty table and a description of its own: to its parent it is another
    process. When a process dies its keys are free.
    """

    __slots__ = ("__weakref__", "_closed", "_file", "_holders", "_lock", "_mutex", "_wanted")

    exclusive: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._mutex = KeyedMutex()
        self._file = ByteLocks(path)
        self._closed = False
        self._reset()
        register(self)

    def _reset(self) -> None:
        # Guards what follows, and the file but for the watchers' waits in it. Held for a system call that never waits.
        self._lock = threading.Lock()
        self._holders: dict[str, _Hold] = {}
        """Whose a locked byte is. A key is here or in ``_wanted``, never in both."""
        self._wanted: dict[str, _Hold | None] = {}
        """The keys with a watcher, and for whom it watches: None when that one gave up."""

    def hold(self, key: str, timeout_seconds: float | None = None, cancel: Cancellation | None = None) -> _Hold:
        """Describe a hold on ``key``: ``with keys.hold(key): ...``."""
        return _Hold(self, key, timeout_seconds, cancel)

    def waiters(self, key: str) -> int:
        """How many threads of this process wait for ``key`` now."""
        return self._mutex.waiters(key) + (self._wanted.get(key) is not None)

    def __len__(self) -> int:
        """How many keys are live now, in this process: held here, or waited for here while another process has it."""
        return len(self._mutex)

    def close(self) -> None:
        """Give every key up; entering a hold raises StoreError from now on. A second call does nothing."""
        with self._lock:
            self._closed = True
            for hold in list(self._holders.values()):
                self._give_up(hold)
            if not self._wanted:  # a watcher's descriptor must stay: its number could become another file's
                self._file.close()

    def __repr__(self) -> str:
        return f"<ProcessKeys {self._file.path}, {len(self)} live keys>"

    def thread_ended(self, thread: threading.Thread) -> None:
        """Give up the bytes of a thread that is ending."""
        with self._lock:
            for hold in [hold for hold in self._holders.values() if hold.thread is thread]:
                self._give_up(hold)

    def process_forked(self) -> None:
        """In a forked child: close the parent's description without unlocking what it locks for the parent."""
        self._file.close()
        self._reset()

    def _take(self, hold: _Hold) -> bool:
        """Lock the byte for ``hold``, which has its key among the threads; or have it watched, and return False."""
        key = hold.key
        with self._lock:
            if self._closed:
                raise self._is_closed()
            watched = key in self._wanted
            if not watched and self._file.try_lock(hold.offset):
                self._holders[key] = hold
                return True
            if hold.seconds_left() == 0:
                return False
            self._wanted[key] = hold
        if not watched:
            self._start_watcher(key, hold.offset)
        return False

    def _leave(self, hold: _Hold) -> None:
        """Give up the byte, or the wait for it, where ``hold`` has either."""
        with self._lock:
            if self._wanted.get(hold.key) is hold:
                self._wanted[hold.key] = None
            self._give_up(hold)

    def _give_up(self, hold: _Hold) -> None:
        if self._holders.get(hold.key) is hold:
            del self._holders[hold.key]
            self._file.unlock(hold.offset)

    def _start_watcher(self, key: str, offset: int) -> None:
        try:
            threading.Thread(target=self._watch, args=(key, offset), name=f"imgpull-watch {key}", daemon=True).start()
        except RuntimeError:  # can't start new thread
            with self._lock:
                self._unwatch(key)
            raise

    def _watch(self, key: str, offset: int) -> None:
        fault: StoreError | None = None
        try:
            self._file.lock(offset)
        except StoreError as error:
            fault = error
        with self._lock:
            hold = self._unwatch(key)
            if self._closed:
                fault = self._is_closed()
            if hold is not None and fault is None:
                self._holders[key] = hold
            else:
                self._file.unlock(offset)
        if hold is not None:
            hold.bell.put(fault)

    def _unwatch(self, key: str) -> _Hold | None:
        """Forget a watcher that ends, and return for whom it watched; after the last one a closed file is closed."""
        hold = self._wanted.pop(key)
        if self._closed and not self._wanted:
            self._file.close()
        return hold

    def _is_closed(self) -> StoreError:
        path = self._file.path
        return StoreError(f"{path} is closed: open the store again", path=path)


class _Hold:
    """One thread's claim to one key, among its fellows and then among processes."""

    __slots__ = ("_among_threads", "_cancel", "_deadline", "_keys", "_timeout_seconds", "_watched", "bell", "offset")

    def __init__(self, keys: ProcessKeys, key: str, timeout_seconds: float | None, cancel: Cancellation | None) -> None:
        self.offset = _offset(key)
        """The key's byte."""
        self.bell: SimpleQueue[StoreError | None] = SimpleQueue()
        """Rung by the watcher when it has the byte, or can't have it; and by a cancel. A queue's ``put`` is the one
        signal in the standard library that a signal handler may give at any instruction."""
        self._keys = keys
        self._among_threads = keys._mutex.hold(key, timeout_seconds, cancel)
        self._timeout_seconds = timeout_seconds
        self._deadline: float | None = None
        self._cancel = cancel
        self._watched = False

    @property
    def key(self) -> str:
        """The key that was asked for."""
        return self._among_threads.key

    @property
    def thread(self) -> threading.Thread | None:
        """Who entered."""
        return self._among_threads.thread

    @property
    def waited(self) -> bool:
        """Whether another thread or process held the key first."""
        return self._watched or self._among_threads.waited

    def __enter__(self) -> _Hold:
        if self._timeout_seconds is not None:
            self._deadline = time.monotonic() + self._timeout_seconds
        self._among_threads.__enter__()
        try:
            if not self._keys._take(self):
                self._wait()
            return self
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._keys._leave(self)
        finally:
            self._among_threads.__exit__(kind, error, traceback)

    def seconds_left(self) -> float | None:
        """Until the timeout, or 0 when it is over; None when there is none."""
        if self._deadline is None:
            return None
        return min(max(self._deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)

    def _wait(self) -> None:
        """Wait for the bell; raise when it rings for anything but the key, or not in time."""
        self._watched = True
        cancel = self._cancel
        remove = cancel.add_callback(lambda: self.bell.put(None)) if cancel is not None else None
        try:
            fault: BaseException | None = self.bell.get(timeout=self.seconds_left())
        except Empty:
            fault = self._timed_out()
        finally:
            if remove is not None:
                remove()
        if cancel is not None:
            cancel.raise_if_cancelled()
        if fault is not None:
            raise fault

    def _timed_out(self) -> LockTimeoutError:
        message = (
            f"{self.key} was not free within {self._timeout_seconds:g} s, another process holds it; "
            "allow more time or try again"
        )
        return LockTimeoutError(message, key=self.key)

    def __repr__(self) -> str:
        return f"<hold on {self.key!r} among processes by {self.thread.name if self.thread is not None else None}>"


def _offset(key: str) -> int:
    """The byte of ``key``: the same in every version of this library, and at most 2⁶³ - 1, as ``off_t`` is signed."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1
