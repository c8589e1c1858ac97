"""What one pull has asked for: waited for by several threads, each for its own."""

from __future__ import annotations

import pytest

from fakes.threads import start, until
from imgpull.errors import NotFoundError, PullCancelledError
from imgpull.events import BlobChanged, Event, EventSink, discard
from imgpull.fetch import Fetches
from imgpull.locking import Cancellation, Flights, Landed, Seat
from imgpull.oci import Descriptor, Digest

BLOBS = [Descriptor(media_type="", digest=Digest.of_bytes(bytes([n])), size_bytes=1) for n in range(3)]
A, B, C = (blob.digest for blob in BLOBS)


class Transfers:
    """Boardings whose landing is the test's."""

    def __init__(self) -> None:
        self.landed: dict[Digest, Landed[None]] = {}
        self.seats: dict[Digest, Seat[None]] = {}
        self.asked: list[Digest] = []

    def board(self, fetches: Fetches, blob: Descriptor, joined: bool = False) -> None:
        def boarding(landed: Landed[None], sink: EventSink) -> Seat[None]:
            self.asked.append(blob.digest)
            self.landed[blob.digest] = landed
            flights = Flights[None]()
            for _ in range(2 if joined else 1):
                seat = flights.board(0, lambda _: None, lambda _: None, lambda *_: None)
            self.seats[blob.digest] = seat
            return seat

        fetches.board(blob, boarding)

    def arrive(self, digest: Digest, error: BaseException | None = None) -> None:
        self.landed[digest](None, error)


def waiting(fetches: Fetches, count: int) -> None:
    until(
        lambda: sum(len(news.changed._waiters) for news in fetches._news.values()) == count,  # type: ignore[attr-defined]
        f"{count} threads wait",
    )


def test_each_thread_waits_for_its_own() -> None:
    transfers = Transfers()
    with Fetches(discard) as fetches:
        for blob in BLOBS:
            transfers.board(fetches, blob)
        threads = {digest: start(lambda digest=digest: fetches.wait(digest, Cancellation())) for digest in (A, B, C)}  # type: ignore[misc]
        waiting(fetches, 3)
        transfers.arrive(B)
        threads[B].outcome()
        assert threads[A].is_alive()
        assert threads[C].is_alive()
        transfers.arrive(A)
        transfers.arrive(C)
        fetches.wait_all(Cancellation())
        for thread in threads.values():
            thread.outcome()


def test_the_first_error_ends_every_wait_with_an_object_of_its_own() -> None:
    transfers = Transfers()
    with Fetches(discard) as fetches:
        for blob in BLOBS:
            transfers.board(fetches, blob)
        transfers.arrive(C)
        threads = [start(lambda digest=digest: fetches.wait(digest, Cancellation())) for digest in (A, B)]  # type: ignore[misc]
        waiting(fetches, 2)
        transfers.arrive(A, NotFoundError("first", registry="r", status=404))
        transfers.arrive(B, NotFoundError("second", registry="r", status=404))
        errors = [thread.done().error for thread in threads]
        assert [str(error) for error in errors] == ["first", "first"]
        assert errors[0] is not errors[1]
        fetches.wait(C, Cancellation())  # what has arrived is here, whatever became of the others
        with pytest.raises(NotFoundError, match="first"):
            fetches.wait_all(Cancellation())


def test_errors_that_came_after_are_noted() -> None:
    transfers = Transfers()
    with pytest.raises(NotFoundError, match="first") as caught, Fetches(discard) as fetches:
        for blob in BLOBS:
            transfers.board(fetches, blob)
        transfers.arrive(A, NotFoundError("first", registry="r", status=404))
        transfers.arrive(B, NotFoundError("second", registry="r", status=404))
        fetches.wait(A, Cancellation())
    assert caught.value.__notes__ == ["also: second"]


def test_a_cancel_ends_the_wait() -> None:
    transfers, cancel = Transfers(), Cancellation()
    with Fetches(discard) as fetches:
        transfers.board(fetches, BLOBS[0])
        thread = start(lambda: fetches.wait(A, cancel))
        waiting(fetches, 1)
        cancel.cancel()
        assert isinstance(thread.done().error, PullCancelledError)
    assert not cancel._callbacks


def test_leaving_gives_up_every_seat_also_one_that_is_taken_afterwards() -> None:
    transfers, cancel = Transfers(), Cancellation()
    with Fetches(discard) as fetches:
        transfers.board(fetches, BLOBS[0])
    assert not cancel._callbacks
    transfers.board(fetches, BLOBS[1])
    assert [transfers.seats[digest].flight.cancel.cancelled for digest in (A, B)] == [True, True]


def test_under_way_is_not_asked_for_twice_and_arrived_is() -> None:
    transfers = Transfers()
    with Fetches(discard) as fetches:
        fetches.wait(A, Cancellation())  # not asked for
        transfers.board(fetches, BLOBS[0])
        transfers.board(fetches, BLOBS[0])
        assert transfers.asked == [A]
        transfers.arrive(A)
        transfers.board(fetches, BLOBS[0])
        assert transfers.asked == [A, A]
        transfers.arrive(A)
        fetches.wait(A, Cancellation())


def test_a_boarding_that_fails_fails_those_who_wait() -> None:
    def broken(landed: Landed[None], sink: EventSink) -> Seat[None]:
        raise ZeroDivisionError

    with Fetches(discard) as fetches:
        with pytest.raises(ZeroDivisionError):
            fetches.board(BLOBS[0], broken)
        with pytest.raises(ZeroDivisionError):
            fetches.wait(A, Cancellation())


def test_joining_is_told() -> None:
    transfers, heard = Transfers(), list[Event]()
    with Fetches(heard.append) as fetches:
        transfers.board(fetches, BLOBS[0], joined=True)
        transfers.board(fetches, BLOBS[1])
    assert heard == [BlobChanged(A, 1, "joined")]
