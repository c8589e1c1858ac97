"""One holder per key among the threads of this process, first come first served.

The port of containerd's ``internal/kmutex`` (a map from key to a semaphore of one, with reference counts) to
:class:`threading.Condition`. Kept: the order, one wake-up per release, a waiter cancelled just after it was granted the
key passes it on, nothing is left behind. Added: entering twice or releasing twice raises instead of blocking or
corrupting, a timeout, a holder whose thread has ended is replaced, a table that survives ``fork``.

How it works
    Two tables under one lock: ``_owners`` says whose a key is, ``_queues`` who waits for it. A key nobody disputes
    costs one dictionary entry. A waiter makes a condition *on the tables' lock* and sleeps on it. A release does not
    free a disputed key: it writes the first waiter into ``_owners`` and wakes that one. Nobody who comes in between
    can overtake it, and nobody wakes to find the key taken. Rejected: a condition made for every key (2.8 µs for an
    undisputed hold, not 0.8), and one condition shared by a key's waiters (a cancel would have to wake them all).

Every way out of a wait
    Granted, timed out, cancelled or interrupted at any instruction: a thread keeps the key or goes through
    :meth:`KeyedMutex._withdraw`, so no waiter can leak. tests/concurrency/test_keyed_mutex_sweep.py interrupts every
    instruction of this file and lists what remains: a holder interrupted between the end of its ``with`` block and
    the ``try`` of ``__exit__`` keeps the key until its thread ends. Interrupts reach the main thread only, and
    imgpull holds no key there.

When a holder's thread ends
    :mod:`imgpull.locking.thread_end` says so at that moment, in that thread, and the key goes to the next waiter.
    Nobody polls, and neither waiters nor newcomers have to ask whether a holder lives.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from imgpull.errors import LockTimeoutError
from imgpull.locking.thread_end import THREAD_OF_PARENT, register, this_thread

if TYPE_CHECKING:
    from imgpull.locking.cancellation import Cancellation

__all__ = ["KeyedMutex"]

_logger = logging.getLogger("imgpull.locking")


class KeyedMutex:
    """A mutex per key; see :class:`~imgpull.locking.KeyedLock` for what its methods promise.

    A child made by ``os.fork`` starts with an empty table: what its parent held is its parent's, and leaving such a
    hold in the child does nothing.
    """

    __slots__ = ("__weakref__", "_lock", "_owners", "_queues")

    exclusive: ClassVar[bool] = True

    def __init__(self) -> None:
        self._reset()
        register(self)

    def _reset(self) -> None:
        """Set up empty tables."""
        # Guards _owners and _queues; held for a few dictionary operations, never while anybody's code runs.
        # Re-entrant, so that a signal handler that cancels may interrupt the thread inside.
        self._lock = threading.RLock()
        self._owners: dict[str, _Hold] = {}
        self._queues: dict[str, deque[_Hold]] = {}

    def hold(self, key: str, timeout_seconds: float | None = None, cancel: Cancellation | None = None) -> _Hold:
        """Describe a hold on ``key``: ``with mutex.hold(key): ...``."""
        return _Hold(self, key, timeout_seconds, cancel)

    def waiters(self, key: str) -> int:
        """How many threads wait for ``key`` now."""
        with self._lock:
            return len(self._queues.get(key, ()))

    def __len__(self) -> int:
        """How many keys are live now."""
        with self._lock:
            return len(self._owners)

    def __repr__(self) -> str:
        return f"<KeyedMutex {len(self)} live keys>"

    def thread_ended(self, thread: threading.Thread) -> None:
        """Hand on every key of a thread that is ending."""
        with self._lock:
            for hold in [hold for hold in self._owners.values() if hold.thread is thread]:
                queue = self._queues.get(hold.key)
                if queue:
                    queue[0].predecessor = thread.name
                self._withdraw(hold)

    def process_forked(self) -> None:
        """In a forked child, whose other threads are gone: the tables start again."""
        for hold in self._owners.values():
            hold.thread = THREAD_OF_PARENT
        self._reset()

    # What follows is called with _lock held.

    def _withdraw(self, hold: _Hold) -> None:
        """Take ``hold`` out of the tables, whether it owns its key, waits for it or neither.

        Each step leaves a state from which the whole can be done again: a caller that was interrupted does that.
        """
        key = hold.key
        queue = self._queues.get(key)
        if self._owners.get(key) is hold:
            if queue and queue[0] is hold:  # its grant was interrupted halfway
                queue.popleft()
            if queue:
                self._owners[key] = queue[0]
            else:
                del self._owners[key]
        elif queue and hold in queue:
            queue.remove(hold)
        self._settle(key)

    def _settle(self, key: str) -> None:
        """See that the owner of ``key`` no longer queues for it, and knows; drop an empty queue."""
        owner = self._owners.get(key)
        queue = self._queues.get(key)
        if queue and queue[0] is owner:
            queue.popleft()
        if queue is not None and not queue:
            del self._queues[key]
        if owner is not None and owner.condition is not None:
            owner.condition.notify()


class _Hold:
    """One thread's claim to one key: the context manager, the table's entry and the place in the queue, all in one.

    A class and not ``@contextmanager``, which costs twice as much and lets a second exit pass in silence.
    """

    __slots__ = ("_cancel", "_mutex", "_timeout_seconds", "condition", "key", "predecessor", "thread")

    def __init__(self, mutex: KeyedMutex, key: str, timeout_seconds: float | None, cancel: Cancellation | None) -> None:
        self.key = key
        self.thread: threading.Thread | None = None
        """Who entered."""
        self.condition: threading.Condition | None = None
        """Where it sleeps, once it has to wait; on the tables' lock."""
        self._mutex = mutex
        self._timeout_seconds = timeout_seconds
        self._cancel = cancel

    @property
    def waited(self) -> bool:
        """Whether another thread held the key first."""
        return self.condition is not None

    def __enter__(self) -> _Hold:
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()
        if self.thread is not None:
            raise RuntimeError(f"this hold on {self.key!r} was entered before; ask hold() for another")
        self.thread = this_thread.thread
        mutex = self._mutex
        try:
            with mutex._lock:
                owner = mutex._owners.setdefault(self.key, self)
                if owner is self:
                    return self
                self._enqueue(behind=owner)
            self._wait()
            return self
        except BaseException:
            with mutex._lock:
                mutex._withdraw(self)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:  # the first statement: an interrupt before it leaves the key held
            mutex = self._mutex
            with mutex._lock:
                if mutex._owners.get(self.key) is not self:
                    self._refuse_release()
                elif self.key in mutex._queues:
                    mutex._withdraw(self)
                else:
                    del mutex._owners[self.key]
        except BaseException:
            with self._mutex._lock:
                self._mutex._withdraw(self)
            raise

    def _enqueue(self, behind: _Hold) -> None:
        """Join the queue for the key that ``behind`` owns; the tables' lock is held."""
        if behind.thread is self.thread:
            raise RuntimeError(f"this thread holds {self.key!r} already; a keyed mutex is not re-entrant")
        if self._timeout_seconds is not None and self._timeout_seconds <= 0:
            raise self._timed_out()
        mutex = self._mutex
        self.predecessor: str | None = None
        self.condition = threading.Condition(mutex._lock)
        mutex._queues.setdefault(self.key, deque()).append(self)

    def _wait(self) -> None:
        """Wait until the key is granted; raise when it is cancelled or times out first."""
        cancel = self._cancel
        remove = cancel.add_callback(self._wake) if cancel is not None else None
        try:
            granted = self._sleep()
        finally:
            if remove is not None:
                remove()
        if not granted:
            if cancel is not None:
                cancel.raise_if_cancelled()
            raise self._timed_out()
        if self.predecessor is not None:
            _logger.info("%s: thread %s ended without releasing it, took over", self.key, self.predecessor)

    def _sleep(self) -> bool:
        """Sleep until granted, cancelled or timed out; unless granted only, leave the queue or pass the key on."""
        mutex, condition, timeout_seconds = self._mutex, self.condition, self._timeout_seconds
        assert condition is not None
        if timeout_seconds is not None:
            timeout_seconds = min(timeout_seconds, threading.TIMEOUT_MAX)
        try:
            # Not "with condition": its __enter__ is Python, and can be interrupted with the lock taken.
            with mutex._lock:
                condition.wait_for(self._is_over, timeout_seconds)
                if self._is_granted() and not self._is_cancelled():
                    return True
                mutex._withdraw(self)
                return False
        except RuntimeError as error:
            # Condition.wait can be interrupted after it gave up the lock and before the try that takes it back; the
            # with above then can't release what it does not have. What happened is the interrupt.
            if error.__context__ is None:
                raise
            raise error.__context__ from None

    def _is_granted(self) -> bool:
        return self._mutex._owners.get(self.key) is self

    def _is_cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.cancelled

    def _is_over(self) -> bool:
        return self._is_granted() or self._is_cancelled()

    def _wake(self) -> None:
        """The callback on cancel."""
        condition = self.condition
        assert condition is not None
        with self._mutex._lock:
            condition.notify()

    def _timed_out(self) -> LockTimeoutError:
        owner = self._mutex._owners.get(self.key)
        by = f", thread {owner.thread.name} holds it" if owner is not None and owner.thread is not None else ""
        message = f"{self.key} was not free within {self._timeout_seconds:g} s{by}; allow more time or try again"
        return LockTimeoutError(message, key=self.key)

    def _refuse_release(self) -> None:
        if self.thread is not THREAD_OF_PARENT:
            raise RuntimeError(f"release of {self.key!r}, which this hold does not hold")

    def __repr__(self) -> str:
        return f"<hold on {self.key!r} by {self.thread.name if self.thread is not None else None}>"
