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


class _News:
    """Of one transfer, for those who wait for it."""

    __slots__ = ("changed", "changes", "missing")

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.changes = 0
        self.missing = True
        """Asked for and not arrived; what failed stays so."""

    def tell(self) -> None:
        """Wake those who wait for this one; the lock is held."""
        self.changes += 1
        self.changed.notify_all()


class Fetches:
    """The transfers one pull has boarded; any of its threads may board and wait. The first error ends every wait;
    leaving the block leaves the transfers, which go on where another pull wants them."""

    def __init__(self, say: EventSink) -> None:
        self._say = say
        sinks: tuple[EventSink, ...] = (say, self._heard)
        self._sink = Audience(lambda: sinks)
        # Guards all that follows. Each thread waits for its own digest and is woken for that one: woken for any, eight
        # threads looked four times for each of forty layers.
        self._lock = threading.Lock()
        self._news: dict[str, _News] = {}
        self._seats: list[Seat[None]] = []
        self._errors: list[BaseException] = []
        self._raised = False
        self._left = False

    def board(self, descriptor: Descriptor, boarding: Boarding) -> None:
        """Begins to fetch a blob, or joins who does. A digest that is under way is not asked for twice; one that has
        arrived is, for whoever asks has not found it in the store."""
        digest = descriptor.digest
        with self._lock:
            news = self._news.get(digest)
            if news is None:
                self._news[digest] = _News(self._lock)
            elif news.missing:
                return
            else:
                news.missing = True
        try:
            seat = boarding(lambda _, error: self._landed(digest, error), self._sink)
        except BaseException as error:  # others may wait for it already
            self._landed(digest, error)
            raise
        with self._lock:
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

        ``look`` is called, without a lock, whenever there is news of its transfer.
        """
        news = self._news.get(digest)
        if news is None:
            return None
        forget = cancel.add_callback(lambda: self._tell(digest))
        try:
            while (changes := self._still_missing(news)) is not None:
                cancel.raise_if_cancelled()
                if (found := look()) is not None:
                    return found
                with self._lock:
                    news.changed.wait_for(lambda: news.changes != changes)
            return None
        finally:
            forget()

    def wait_all(self, cancel: Cancellation) -> None:
        """Until everything that was asked for is here. Raises as :meth:`wait`."""
        with self._lock:
            missing = [Digest(digest) for digest, news in self._news.items() if news.missing]
        for digest in missing:
            self.wait(digest, cancel)

    def _still_missing(self, news: _News) -> int | None:
        """None once it is here, else how many changes there have been."""
        with self._lock:
            if not news.missing:
                return None
            if self._errors:
                raise self._first_error()
            return news.changes

    def _first_error(self) -> BaseException:
        """For each thread that raises it an object of its own: a traceback has one writer."""
        error = self._errors[0]
        raised, self._raised = self._raised, True
        return error.copy() if raised and isinstance(error, ImgpullError) else error

    def _landed(self, digest: Digest, error: BaseException | None) -> None:
        with self._lock:
            if error is None:
                self._news[digest].missing = False
                self._news[digest].tell()
                return
            self._errors.append(error)
            for news in self._news.values():
                news.tell()

    def _heard(self, event: Event) -> None:
        if isinstance(event, BlobChanged):
            self._tell(event.digest)

    def _tell(self, digest: str) -> None:
        with self._lock:
            if (news := self._news.get(digest)) is not None:
                news.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._lock:
            self._left = True
            seats, others = self._seats, self._errors[1:] if self._raised else self._errors
        for seat in seats:
            seat.leave()
        if error is not None:
            for other in others:
                if not isinstance(other, PullCancelledError):
                    error.add_note(f"also: {other}")
