"""How a caller takes back what it asked for."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

from imgpull.errors import PullCancelledError

__all__ = ["Cancellation"]

_logger = logging.getLogger("imgpull.locking")


class Cancellation:
    """A switch that goes from off to on once, and tells those who asked to be told.

    Any thread may call any method, and :meth:`cancel` may be called from a signal handler: it takes no lock that the
    interrupted thread could hold in a way that blocks it.
    """

    __slots__ = ("__weakref__", "_callbacks", "_cancelled", "_lock", "_parent")

    def __init__(self) -> None:
        # Guards _cancelled and _callbacks, never held while a callback runs. Re-entrant, for a signal handler may
        # interrupt its holder; each change below is one C call, so the handler always meets a consistent state.
        self._lock = threading.RLock()
        # Ordered, and O(1) to take from the front or to remove: a plain dict's front is O(n) after many removals.
        self._callbacks: OrderedDict[object, Callable[[], object]] = OrderedDict()
        self._cancelled = False
        self._parent: Cancellation | None = None

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` has been called, here or on an ancestor."""
        return self._cancelled

    def cancel(self) -> None:
        """Switch on and run the callbacks, in the order they were added, in this thread. Again: no effect."""
        with self._lock:
            self._cancelled = True
        self._run_callbacks()

    def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Run ``callback()`` once, on cancel, in the cancelling thread; at once and here if that has happened.

        It must be quick and must not block. An :class:`Exception` it raises is logged and goes no further.
        Returns a function that takes the callback back; another thread may be running it at that moment.
        """
        ticket = object()
        with self._lock:
            # First added, then looked: a signal handler that cancels in between has run the callback already.
            self._callbacks[ticket] = callback
            cancelled = self._cancelled

        def remove() -> None:
            with self._lock:
                self._callbacks.pop(ticket, None)

        if cancelled:
            self._run_callbacks()
        return remove

    def raise_if_cancelled(self) -> None:
        """Raise :class:`~imgpull.PullCancelledError` once cancelled."""
        if self._cancelled:
            raise PullCancelledError("cancelled by the caller")

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Sleep until cancelled, or for ``timeout_seconds``; return whether it is cancelled."""
        # A bare lock and not threading.Event, whose set() takes a lock that is not re-entrant: a signal handler
        # that cancels while this very thread is inside Event.wait() would block for ever.
        gate = threading.Lock()
        gate.acquire()
        remove = self.add_callback(gate.release)
        try:
            gate.acquire(timeout=_lock_timeout(timeout_seconds))
        finally:
            remove()
        return self._cancelled

    def child(self) -> Cancellation:
        """A new one that is cancelled with this one; cancelling it leaves this one alone."""
        child = Cancellation()
        child._parent = self  # keeps the line of ancestors alive for as long as a descendant is
        # The parent knows its child weakly: one that lives as long as a service must not collect a child per pull.
        link = weakref.WeakMethod(child.cancel, lambda _: remove())

        def pass_down() -> None:
            cancel = link()
            if cancel is not None:
                cancel()

        remove = self.add_callback(pass_down)
        return child

    def _run_callbacks(self) -> None:
        while True:
            with self._lock:
                if not self._callbacks:
                    return
                _, callback = self._callbacks.popitem(last=False)
            try:
                callback()
            except Exception:
                _logger.info("a callback on cancel failed", exc_info=True)

    def __repr__(self) -> str:
        return f"<Cancellation {'cancelled' if self._cancelled else 'not cancelled'}>"


def _lock_timeout(timeout_seconds: float | None) -> float:
    """In the terms of ``Lock.acquire``, where -1 means for ever and there is an upper limit."""
    if timeout_seconds is None:
        return -1.0
    return min(max(timeout_seconds, 0.0), threading.TIMEOUT_MAX)
