"""What one pull has asked the fetcher for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from imgpull.errors import ImgpullError, PullCancelledError
from imgpull.events import BlobChanged, Event, EventSink
from imgpull.locking import Audience, Cancellation, Landed, Seat
from imgpull.oci import Descriptor, Digest

__all__ = ["Boarding", "Fetches"]

T = TypeVar("T")
Boarding = Callable[[Landed[None], EventSink], Seat[None]]
"""Takes a seat on a transfer."""


class Fetches:
    """The transfers one pull has boarded; any of its threads may board and wait. The first error ends every wait;
    leaving the block leaves the transfers, which go on where another pull wants them."""

    def __init__(self, say: EventSink) -> None:
        self._say = say
        sinks: tuple[EventSink, ...] = (say, self._heard)
        self._sink = Audience(lambda: sinks)
        # Its lock guards all that follows. A condition and no queue: each of several threads waits for its own digest.
        self._changed = threading.Condition()
        self._changes = 0
        self._missing: set[Digest] = set()
        """Asked for and not arrived; what failed stays here."""
        self._seats: list[Seat[None]] = []
        self._errors: list[BaseException] = []
        self._raised = False
        self._left = False

    def board(self, descriptor: Descriptor, boarding: Boarding) -> None:
        """Begins to fetch a blob, or joins who does. A digest that is under way is not asked for twice; one that has
        arrived is, for whoever asks has not found it in the store."""
        digest = descriptor.digest
        with self._changed:
            if digest in self._missing:
                return
            self._missing.add(digest)
        try:
            seat = boarding(lambda _, error: self._landed(digest, error), self._sink)
        except BaseException as error:  # others may wait for it already
            self._landed(digest, error)
            raise
        with self._changed:
            self._seats.append(seat)
            left = self._left
        if left:
            seat.leave()
        if seat.joined:
            self._say(BlobChanged(digest, descriptor.size_bytes, "joined"))

    def wait(self, digest: Digest, cancel: Cancellation) -> None:
        """Until ``digest`` is in the store; at once for one that was not asked for. Raises the first error of any, and
        PullCancelledError."""
        self.first(digest, lambda: None, cancel)

    def first(self, digest: Digest, look: Callable[[], T | None], cancel: Cancellation) -> T | None:
        """What ``look()`` finds of a blob that arrives, or None once it is here; raises as :meth:`wait`.

        ``look`` is called, without a lock, whenever there is news of a transfer.
        """
        forget = cancel.add_callback(self._change)
        try:
            while (changes := self._still_missing(digest)) is not None:
                cancel.raise_if_cancelled()
                if (found := look()) is not None:
                    return found
                self._await_change(changes)
            return None
        finally:
            forget()

    def wait_all(self, cancel: Cancellation) -> None:
        """Until everything that was asked for is here. Raises as :meth:`wait`."""
        with self._changed:
            missing = tuple(self._missing)
        for digest in missing:
            self.wait(digest, cancel)

    def _await_change(self, seen: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._changes != seen)

    def _still_missing(self, digest: Digest) -> int | None:
        """None once it is here, else how many changes there have been."""
        with self._changed:
            if digest not in self._missing:
                return None
            if self._errors:
                raise self._first_error()
            return self._changes

    def _first_error(self) -> BaseException:
        """For each thread that raises it an object of its own: a traceback has one writer."""
        error = self._errors[0]
        raised, self._raised = self._raised, True
        return error.copy() if raised and isinstance(error, ImgpullError) else error

    def _landed(self, digest: Digest, error: BaseException | None) -> None:
        with self._changed:
            if error is None:
                self._missing.discard(digest)
            else:
                self._errors.append(error)
            self._change()

    def _heard(self, event: Event) -> None:
        if isinstance(event, BlobChanged):
            self._change()

    def _change(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._changed:
            self._left = True
            seats, others = self._seats, self._errors[1:] if self._raised else self._errors
        for seat in seats:
            seat.leave()
        if error is not None:
            for other in others:
                if not isinstance(other, PullCancelledError):
                    error.add_note(f"also: {other}")
