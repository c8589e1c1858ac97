"""What one pull has asked the fetcher for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from imgpull.errors import ImgpullError, PullCancelledError
from imgpull.events import BlobChanged, EventSink
from imgpull.locking import Cancellation, Landed, Seat
from imgpull.oci import Descriptor, Digest

__all__ = ["Boarding", "Fetches"]

Boarding = Callable[[Landed[None], EventSink], Seat[None]]
"""Takes a seat on a transfer."""


class Fetches:
    """The transfers one pull has boarded; any of its threads may board and wait. The first error ends the pull; leaving
    the block leaves the transfers, which go on where another pull wants them."""

    def __init__(self, cancel: Cancellation, say: EventSink) -> None:
        self._say = say
        # Its lock guards all that follows. A condition and no queue: each of several threads waits for its own digest.
        self._changed = threading.Condition()
        self._missing: set[Digest] = set()
        """Asked for and not arrived; what failed stays here."""
        self._seats: list[Seat[None]] = []
        self._errors: list[BaseException] = []
        self._raised = False
        self._left = False
        self._forget = cancel.add_callback(self._cancelled)

    def board(self, descriptor: Descriptor, boarding: Boarding) -> None:
        """Begins to fetch a blob, or joins who does. A digest that is under way is not asked for twice; one that has
        arrived is, for whoever asks has not found it in the store."""
        digest = descriptor.digest

        def landed(_: None, error: BaseException | None) -> None:
            with self._changed:
                if error is None:
                    self._missing.discard(digest)
                else:
                    self._errors.append(error)
                self._changed.notify_all()

        with self._changed:
            if digest in self._missing:
                return
            self._missing.add(digest)
        try:
            seat = boarding(landed, self._say)
        except BaseException as error:  # others may wait for it already
            landed(None, error)
            raise
        with self._changed:
            self._seats.append(seat)
            left = self._left
        if left:
            seat.leave()
        if seat.joined:
            self._say(BlobChanged(digest, descriptor.size_bytes, "joined"))

    def wait(self, digest: Digest) -> None:
        """Until ``digest`` is in the store; at once for one that was not asked for. Raises the first error of any."""
        with self._changed:
            self._changed.wait_for(lambda: digest not in self._missing or self._errors)
            if digest in self._missing:
                raise self._first_error()

    def wait_all(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._missing or self._errors)
            if self._missing:
                raise self._first_error()

    def _first_error(self) -> BaseException:
        """For each thread that raises it an object of its own: a traceback has one writer."""
        error = self._errors[0]
        raised, self._raised = self._raised, True
        return error.copy() if raised and isinstance(error, ImgpullError) else error

    def _cancelled(self) -> None:
        with self._changed:
            self._errors.append(PullCancelledError("cancelled"))
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._forget()
        with self._changed:
            self._left = True
            seats, others = self._seats, self._errors[1:] if self._raised else self._errors
        for seat in seats:
            seat.leave()
        if error is not None:
            for other in others:
                if not isinstance(other, PullCancelledError):
                    error.add_note(f"also: {other}")
