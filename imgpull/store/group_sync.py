"""Making a file system's writes durable together: who asks while a sync runs shares the next one.

A sync of a whole file system (syncfs) serves everybody who wrote to it, so of those who ask at once one syncs and the
others wait for it. Whoever asks is served by a sync that *began* after he asked, as in a database's group commit: one
that runs already may have passed his pages. And for as long as anybody writes, a thread syncs every 0.3 s, so that the
sync somebody waits for has little left to do (facts: docs/decisions/threads.md).

A write-back error is told once per open file and then forgotten, with the pages that were lost (PostgreSQL's
fsyncgate). So all syncs go through one descriptor that is older than whatever is written, and an error fails everyone
who was writing when it came to light, also where an early sync met it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Self

from imgpull.store.durability import Sync

__all__ = ["EARLY_SECONDS", "GroupSync", "Writing"]

EARLY_SECONDS = 0.3
"""On a pull of 305 MB 1.12 to 1.19 times the time without any sync, for 1.23 without early ones."""


class Writing:
    """Something that is being written, from before its first byte. Released once it is settled or given up."""

    __slots__ = ("_group", "failure")

    def __init__(self, group: GroupSync) -> None:
        self._group = group
        self.failure: OSError | None = None

    def settle(self) -> None:
        """Return once all that was written until now is on the disk: after at most two syncs, which can't be
        cancelled. Raises OSError where any sync failed since the writing began; it must be thrown away then."""
        self._group.sync()
        if self.failure is not None:
            raise OSError(self.failure.errno, self.failure.strerror) from self.failure

    def release(self) -> None:
        """A second call does nothing."""
        self._group.ended(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Round:
    """One sync, and those it serves."""

    __slots__ = ("after", "done", "ran")

    def __init__(self, after: _Round | None) -> None:
        self.after = after
        """Ends before this one begins: two at once would do the same work twice."""
        self.done = threading.Event()
        self.ran = False
        """False where its leader was interrupted before it could sync."""


class GroupSync:
    """The syncs of the file system that ``path`` lies on, for all threads."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        sync: Sync,
        *,
        early_seconds: float | None = EARLY_SECONDS,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        """``early_seconds``: how often to sync while somebody writes, None for never. ``pause(seconds)`` waits between
        two early syncs and returns whether to stop."""
        self._path = path
        self._sync = sync
        self._early_seconds = early_seconds
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        # Guards all that follows. No sync happens under it.
        self._lock = threading.Lock()
        self._fd = -1
        self._writings: set[Writing] = set()
        self._next: _Round | None = None
        self._latest: _Round | None = None  # running, or the last that ran
        self._thread: threading.Thread | None = None

    def begin(self) -> Writing:
        """Before something is written; release what is returned. Raises OSError."""
        writing = Writing(self)
        with self._lock:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._writings.add(writing)
            if self._thread is None and self._early_seconds is not None:
                thread = threading.Thread(target=self._sync_early, name="imgpull-sync", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads: what is settled takes longer, that is all
                    thread.start()
                    self._thread = thread
        return writing

    def ended(self, writing: Writing) -> None:
        """What :meth:`Writing.release` does."""
        with self._lock:
            self._writings.discard(writing)

    def sync(self) -> None:
        """Return once a sync that began after this call has ended. An error goes to all writings."""
        while not self._share().ran:
            pass  # whoever was to sync was interrupted: the next round

    def close(self) -> None:
        """When nobody writes any more. A second call does nothing."""
        self._closing.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _share(self) -> _Round:
        with self._lock:
            shared = self._next
            if shared is None:
                own = self._next = _Round(self._latest)
        if shared is None:
            self._lead(own)
            return own
        shared.done.wait()
        return shared

    def _lead(self, own: _Round) -> None:
        try:
            if own.after is not None:
                own.after.done.wait()
                own.after = None
            with self._lock:
                self._next, self._latest = None, own  # whoever asks from here on is too late for this one
            self._run()
            own.ran = True
        finally:
            with self._lock:
                if self._next is own:
                    self._next = None
            own.done.set()

    def _run(self) -> None:
        try:
            self._sync.filesystem(self._fd)
        except OSError as error:
            with self._lock:
                for writing in self._writings:
                    writing.failure = error

    def _sync_early(self) -> None:
        assert self._early_seconds is not None
        while not self._pause(self._early_seconds):
            with self._lock:
                if not self._writings:
                    self._thread = None
                    return
            self.sync()
