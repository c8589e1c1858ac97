"""What one pull has asked the fetcher for."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
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
    """The transfers one pull has boarded. The first error ends the pull; leaving the block leaves the transfers,
    which go on where another pull wants them. Used by the pull's own thread alone."""

    def __init__(self, cancel: Cancellation, say: EventSink) -> None:
        self._say = say
        self._arrivals: SimpleQueue[tuple[Digest | None, BaseException | None]] = SimpleQueue()
        self._arrived: set[Digest] = set()
        self._seats: dict[Digest, Seat[None]] = {}
        self._forget = cancel.add_callback(lambda: self._arrivals.put((None, PullCancelledError("cancelled"))))

    def board(self, descriptor: Descriptor, boarding: Boarding) -> None:
        """Begins to fetch a blob, or joins who does; a digest that appears twice is one transfer."""
        digest = descriptor.digest
        if digest in self._seats:
            return

        def landed(_: None, error: BaseException | None) -> None:
            self._arrivals.put((digest, error))

        seat = self._seats[digest] = boarding(landed, self._say)
        if seat.joined:
            self._say(BlobChanged(digest, descriptor.size_bytes, "joined"))

    def wait(self, digest: Digest) -> None:
        """Until ``digest`` is in the store; at once for one that was not asked for. Raises the first error of any."""
        while digest in self._seats and digest not in self._arrived:
            arrived, error = self._arrivals.get()
            if error is not None:
                raise error
            if arrived is not None:
                self._arrived.add(arrived)

    def wait_all(self) -> None:
        for digest in self._seats:
            self.wait(digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._forget()
        for seat in self._seats.values():
            seat.leave()
        while error is not None and not self._arrivals.empty():
            _digest, other = self._arrivals.get()
            if other is not None and not isinstance(other, PullCancelledError):
                error.add_note(f"also: {other}")
