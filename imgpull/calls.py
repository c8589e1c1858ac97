"""One caller's pull, from asking to answer: a future that sits in one flight after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager
from typing import Any

from imgpull.errors import PullCancelledError
from imgpull.events import EventSink, discard
from imgpull.locking import Cancellation, Deadlines, Seat
from imgpull.store.images import Image

__all__ = ["Call"]


class Call:
    """Holds the caller's future and its seat. Leaving, by cancel or timeout, gives the seat up and nothing else.

    The seat changes while the call moves from the resolution to the pull, so both ends may meet in any order: a call
    that has ended takes no further seat.
    """

    def __init__(self, progress: EventSink | None) -> None:
        self.future: Future[Image] = Future()
        self.say: EventSink = progress or discard
        self._lock = threading.Lock()  # guards _seat, _boardings and _ended
        self._seat: Seat[Any] | None = None
        self._boardings = 0
        self._ended = False
        self._forget: Callable[[], None] | None = None
        self.future.add_done_callback(self._future_done)

    def listen(self, cancel: Cancellation) -> None:
        """End with PullCancelledError when ``cancel`` fires."""
        forget = cancel.add_callback(self._aside)
        with self._lock:
            self._forget = forget
            ended = self._ended
        if ended:
            forget()

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
        try:
            with self._lock:
                if not self._ended and boarding == self._boardings:
                    self._seat = seat
        finally:  # the thread may be interrupted
            if self._seat is not seat:
                seat.leave()

    def finish(self, image: Image) -> None:
        self._settle(lambda: self.future.set_result(image))

    def fail(self, error: BaseException) -> None:
        self._settle(lambda: self.future.set_exception(error))

    def fail_after(self, timeout_seconds: float, error: BaseException, deadlines: Deadlines) -> None:
        """End with ``error`` unless it has ended by then."""
        with self.failing():  # no thread to be had: better no call than one without an end
            forget = deadlines.after(timeout_seconds, lambda: self.fail(error))
            self.future.add_done_callback(lambda _: forget())

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

    def _aside(self) -> None:
        """The callback on cancel. A signal handler may be running it, in a thread that holds any of the locks on the
        way from here to the flight, or is on its way to sleep in the future's: so another thread goes that way."""
        try:
            threading.Thread(target=self._cancelled, name="imgpull-cancel", daemon=True).start()
        except RuntimeError:  # no thread to be had; a cancel must not be lost
            self._cancelled()

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
            seat, self._seat, forget = self._seat, None, self._forget
        if self.future.cancelled():
            self.future.set_running_or_notify_cancel()  # concurrent.futures.wait() would not see it otherwise
        if seat is not None:
            seat.leave()  # without effect where the flight itself ended the call
        if forget is not None:
            forget()
