"""What happens to what a thread holds when the thread, or the process it lives in, is no more.

CPython clears a thread's locals in that thread, the last thing before ``join()`` returns. The :class:`_ThreadEnd` among
them tells the heirs then: at the moment the thread dies, in no other thread's time, and without anybody's polling.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["THREAD_OF_PARENT", "Heir", "register", "this_thread"]


class Heir(Protocol):
    """Somebody who keeps account of what threads hold."""

    def thread_ended(self, thread: threading.Thread) -> None:
        """``thread`` is ending; called in it, so without logging, which would invent a dummy thread for it."""

    def process_forked(self) -> None:
        """This is the child, and its only thread is the one that forked. Locks are as the others left them."""


class _ThreadEnd:
    """Lives among the locals of a thread and dies with it."""

    __slots__ = ("_pid", "_thread")

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._pid = os.getpid()

    def __del__(
        self, getpid: Callable[[], int] = os.getpid, is_finalizing: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        # A forked child destroys the locals of its parent's threads, and the interpreter at exit those of daemon
        # threads, with locks as those threads left them: waiting for one would hang. (The defaults are bound here
        # because at exit the module's names are gone.)
        if is_finalizing() or getpid() != self._pid:
            return
        with _heirs_lock:
            heirs = list(_heirs)
        for heir in heirs:
            heir.thread_ended(self._thread)


class _ThisThread(threading.local):
    """The calling thread. Asking costs less than ``threading.current_thread()``, and arms :class:`_ThreadEnd`."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.thread = threading.current_thread()
        self._end = _ThreadEnd(self.thread)


def register(heir: Heir) -> None:
    """Tell ``heir``, for as long as it lives, of every thread that ends and has used :data:`this_thread`."""
    with _heirs_lock:
        _heirs.add(heir)


def _after_fork() -> None:
    global _heirs_lock  # noqa: PLW0603 -- a thread that no longer exists may hold the old one
    _heirs_lock = threading.Lock()
    this_thread.renew()  # the parent's process id stands in the old one
    for heir in list(_heirs):
        heir.process_forked()


THREAD_OF_PARENT = threading.Thread(name="of the parent process")
"""Stands, in a forked child, for the thread that held something in the parent."""

this_thread = _ThisThread()
_heirs: weakref.WeakSet[Heir] = weakref.WeakSet()
_heirs_lock = threading.Lock()  # guards _heirs; never held while an heir is told
os.register_at_fork(after_in_child=_after_fork)
