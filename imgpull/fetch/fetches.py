"""What one pull has asked the fetcher for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from imgpull.errors import PullCancelledError
from imgpull.events import BlobChanged, EventSink
from imgpull.locking import Cancellation, Landed, Seat
from imgpull.oci import Descriptor, Digest

__all__ = ["Boarding", "Fetches"]

Boarding = Callable[[Landed[None], EventSink], Seat[None]]
"""Takes a seat on a transfer."""


class Fetches:
    """The transfers one pull has boarded. The first error of any ends every wait; leaving the block leaves the
    transfers, which go on where another pull wants them. Used by all threads of the pull."""

    def __init__(self, say: EventSink) -> None:
        self._say = say
        # Guards all below; not held while a transfer is boarded, which may land at once.
        self._lock = threading.Lock()
        self._seats: dict[Digest, Seat[None] | None] = {}
        self._arrived: set[Digest] = set()
        self._errors: list[BaseException] = []
        self._waiting: set[threading.Event] = set()

    def board(self, descriptor: Descriptor, boarding: Boarding) -> None:
        """Begins to fetch a blob, or joins who does; a digest that appears twice is one transfer."""
        digest = descriptor.digest
        with self._lock:
            if digest in self._seats:
                return
            self._seats[digest] = None
        seat = boarding(lambda _, error: self._landed(digest, error), self._say)
        with self._lock:
            self._seats[digest] = seat
        if seat.joined:
            self._say(BlobChanged(digest, descriptor.size_bytes, "joined"))

    def _landed(self, digest: Digest, error: BaseException | None) -> None:
        with self._lock:
            if error is None:
                self._arrived.add(digest)
            else:
                self._errors.append(error)
            for waiter in self._waiting:
                waiter.set()

    def wait(self, digest: Digest, cancel: Cancellation) -> None:
        """Until ``digest`` is in the store; at once for one that was not asked for. Raises the first error of any,
        and PullCancelledError."""
        changed = threading.Event()
        forget = cancel.add_callback(changed.set)
        try:
            while self._is_missing(digest, changed):
                cancel.raise_if_cancelled()  # between clear and wait: a cancel that came before is not slept through
                changed.wait()
        finally:
            forget()
            with self._lock:
                self._waiting.discard(changed)

    def _is_missing(self, digest: Digest, changed: threading.Event) -> bool:
        with self._lock:
            if digest not in self._seats or digest in self._arrived:
                return False
            if self._errors:
                raise self._errors[0]
            changed.clear()
            self._waiting.add(changed)
            return True

    def wait_all(self, cancel: Cancellation) -> None:
        """Until everything that was asked for is here. Raises as :meth:`wait`."""
        for digest in tuple(self._seats):
            self.wait(digest, cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for seat in self._seats.values():
            if seat is not None:
                seat.leave()
        with self._lock:
            others, self._errors = self._errors, []
        for other in others:
            note = f"also: {other}"
            if error is None or other is error or isinstance(other, PullCancelledError):
                continue
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
