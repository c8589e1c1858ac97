"""One pull's transfers, waited for by several of its threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fakes.threads import start, until
from imgpull.errors import NotFoundError, PullCancelledError
from imgpull.events import EventSink, discard
from imgpull.fetch import Fetches
from imgpull.locking import Cancellation, Flights, Landed, Seat
from imgpull.oci import Descriptor, Digest

ONE, TWO = (Descriptor("application/octet-stream", Digest(f"sha256:{digit * 64}"), 1) for digit in "12")
GONE = NotFoundError("gone", registry="example.com")


class Transfers:
    """Land when the test says so."""

    def __init__(self) -> None:
        self.flights: Flights[None] = Flights()
        self.runs: dict[str, Callable[[], None]] = {}
        self.error: BaseException | None = None

    def boarding(self, name: str) -> Callable[[Landed[None], EventSink], Seat[None]]:
        def work(_: object) -> None:
            if self.error is not None:
                raise self.error

        def board(landed: Landed[None], sink: EventSink) -> Seat[None]:
            return self.flights.board(name, work, lambda run: self.runs.__setitem__(name, run), landed, sink)

        return board


@pytest.fixture
def transfers() -> Transfers:
    return Transfers()


@pytest.fixture
def fetches(transfers: Transfers) -> Fetches:
    made = Fetches(discard)
    made.board(ONE, transfers.boarding("one"))
    made.board(ONE, transfers.boarding("twice"))
    made.board(TWO, transfers.boarding("two"))
    assert set(transfers.runs) == {"one", "two"}
    return made


def waiting(fetches: Fetches, count: int) -> None:
    until(lambda: len(fetches._waiting) == count, f"{count} threads to wait")


def test_each_thread_waits_for_its_own_blob(fetches: Fetches, transfers: Transfers) -> None:
    cancel = Cancellation()
    one = start(lambda: fetches.wait(ONE.digest, cancel))
    two = start(lambda: fetches.wait(TWO.digest, cancel))
    waiting(fetches, 2)
    transfers.runs["two"]()
    two.outcome()
    waiting(fetches, 1)
    assert one.is_alive()
    transfers.runs["one"]()
    one.outcome()
    fetches.wait_all(cancel)


def test_the_first_error_ends_every_wait(fetches: Fetches, transfers: Transfers) -> None:
    cancel = Cancellation()
    workers = [start(lambda d=d: fetches.wait(d.digest, cancel)) for d in (ONE, ONE, TWO)]  # type: ignore[misc]
    waiting(fetches, 3)
    transfers.error = GONE
    transfers.runs["two"]()
    for worker in workers:
        with pytest.raises(NotFoundError):
            worker.outcome()


def test_cancelled_before_and_while_it_waits(fetches: Fetches) -> None:
    cancel = Cancellation()
    worker = start(lambda: fetches.wait(ONE.digest, cancel))
    waiting(fetches, 1)
    cancel.cancel()
    with pytest.raises(PullCancelledError):
        worker.outcome()
    with pytest.raises(PullCancelledError):
        start(lambda: fetches.wait(ONE.digest, cancel)).outcome()


def test_what_nobody_raised_is_a_note(transfers: Transfers) -> None:
    with pytest.raises(ValueError, match="first") as caught, Fetches(discard) as fetches:
        fetches.board(ONE, transfers.boarding("one"))
        transfers.error = GONE
        transfers.runs["one"]()
        raise ValueError("first")
    assert caught.value.__notes__ == ["also: gone"]
