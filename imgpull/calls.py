"""One caller's pull, from asking to answer: a future that sits in one flight after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager
from typing import Any

from imgpull.errors import PullCancelledError
from imgpull.events import EventSink, discard
from imgpull.locking import Cancellation, Seat
from imgpull.store.images import Image

__all__ = ["Call"]


class Call:
    """Holds the caller's future and its seat. Leaving, by cancel or timeout, gives the seat up and nothing else.

    The seat changes while the call moves from the resolution to the pull, so both ends may meet in any order: a call
    that has ended takes no further seat.
    """

    def __init__(self, progress: EventSink | None, cancel: Cancellation | None) -> None:
        self.future: Future[Image] = Future()
        self.say: EventSink = progress or discard
        self._lock = threading.Lock()  # guards _seat, _boardings and _ended
        self._seat: Seat[Any] | None = None
        self._boardings = 0
        self._ended = False
        self._forget: Callable[[], None] | None = None
        self.future.add_done_callback(self._future_done)
        if cancel is not None:
            self._forget = cancel.add_callback(self._cancelled)

    def sit(self, board: Callable[[], Seat[Any]]) -> None:
        """Takes the seat that ``board`` gives, unless the call has ended or moved on while it boarded.

        A flight may land before ``board`` returns, and its landing may have taken the next seat already.
        """
        with self._lock:
            if self._ended:
                return
            self._boardings += 1
            boarding = self._boardings
        seat = board()
        with self._lock:
            if not self._ended and boarding == self._boardings:
                self._seat = seat
                return
        seat.leave()

    def finish(self, image: Image) -> None:
        self._settle(lambda: self.future.set_result(image))

    def fail(self, error: BaseException) -> None:
        self._settle(lambda: self.future.set_exception(error))

    def leave(self) -> bool:
        """The caller goes; the flight goes on while another caller is on board. False where the call has ended."""
        return self.future.cancel()

    def wait(self) -> None:
        """Until the call has ended, however."""
        wait([self.future])

    @contextmanager
    def failing(self) -> Iterator[None]:
        """What the block raises is the end of this call, and of nothing else."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    def _cancelled(self) -> None:
        self.fail(PullCancelledError("cancelled by the caller"))

    def _settle(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except InvalidStateError:  # it had ended already: the first end counts
            return

    def _future_done(self, _: Future[Image]) -> None:
        with self._lock:
            self._ended = True
            seat, self._seat = self._seat, None
        if self.future.cancelled():
            self.future.set_running_or_notify_cancel()  # concurrent.futures.wait() would not see it otherwise
        if seat is not None:
            seat.leave()  # without effect where the flight itself ended the call
        if self._forget is not None:
            self._forget()
