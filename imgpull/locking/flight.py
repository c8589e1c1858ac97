"""Flights: work that belongs to no caller.

A **flight** is one run of some work under a key. Callers *board* it, which costs one list entry, and wait for it to
*land*; they hold no key and no thread of it. A caller may *leave* at any time; when the last one has left, the flight's
:class:`Cancellation` fires and the work stops. This is moby's ``xfer`` transfer with kmutex's take-over:

- a result goes to everybody on board;
- a **permanent** error goes to everybody on board, each with an exception object of its own, and is never remembered;
- a **transient** error (:attr:`ImgpullError.transient`) goes to the caller who led; the next one leads another attempt
  with its own work, which starts from what the last attempt left behind.

A flight that has *departed* takes no more passengers: those who come later board the next one, which starts when this
one has landed. That is how a call that must be fresh joins only what was resolved after it began.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from imgpull.errors import ImgpullError
from imgpull.events import Event, EventSink, discard
from imgpull.locking.cancellation import Cancellation

__all__ = ["Audience", "Flight", "Flights", "Landed", "Launch", "Seat", "fly_alone"]

T = TypeVar("T")
Landed = Callable[[T | None, BaseException | None], None]
"""What a seat is told when its flight lands: the result, or the error."""
Launch = Callable[[Callable[[], None]], None]
"""Starts a flight: runs the given callable on a thread, a pool, or here and now."""

_log = logging.getLogger("imgpull.locking")


class Audience:
    """A sink that passes each event once to each distinct sink behind it, however often and deeply it is nested."""

    __slots__ = ("_lock", "_sinks")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _sinks, which is replaced and never changed in place
        self._sinks: tuple[EventSink, ...] = ()

    def add(self, sink: EventSink) -> None:
        if sink is not discard:
            with self._lock:
                self._sinks = (*self._sinks, sink)

    def remove(self, sink: EventSink) -> None:
        with self._lock:
            sinks = list(self._sinks)
            if sink in sinks:
                sinks.remove(sink)
                self._sinks = tuple(sinks)

    def leaves(self) -> dict[int, EventSink]:
        found: dict[int, EventSink] = {}
        for sink in self._sinks:
            found.update(sink.leaves() if isinstance(sink, Audience) else {id(sink): sink})
        return found

    def __call__(self, event: Event) -> None:
        if not self._sinks:
            return
        for sink in self.leaves().values():
            try:
                sink(event)
            except Exception:
                _log.info("an event sink failed on %r", event, exc_info=True)


class Seat(Generic[T]):
    """One caller's place on a flight."""

    __slots__ = ("_landed", "flight", "joined", "sink", "work")

    def __init__(
        self, flight: Flight[T], work: Callable[[Flight[T]], T], sink: EventSink, landed: Landed[T], joined: bool
    ) -> None:
        self.flight = flight
        self.work = work
        self.sink = sink
        self.joined = joined
        """Whether somebody else was on board before."""
        self._landed: Landed[T] | None = landed

    def leave(self) -> None:
        """Give the place up; nothing will be delivered. The flight stops when nobody is left."""
        self.flight._leave(self)

    def _deliver(self, result: T | None, error: BaseException | None) -> None:
        landed, self._landed = self._landed, None
        if landed is None:
            return
        try:
            landed(result, error)
        except Exception:
            # One caller's callback must not keep the others from their result.
            _log.info("a caller failed to take its result", exc_info=True)


class Flight(Generic[T]):
    """One run of the work under ``key``. Made by :meth:`Flights.board` only."""

    def __init__(self, key: Hashable, flights: Flights[T]) -> None:
        self.key = key
        self.cancel = Cancellation()
        """Fires when the last caller has left; the work must look at it."""
        self.audience = Audience()
        """Takes the flight's events to everyone on board."""
        self._flights = flights
        # All guarded by the table's lock.
        self._seats: list[Seat[T]] = []
        self._next: tuple[Flight[T], Launch] | None = None
        self._departed = False
        self._deserted = False

    def depart(self) -> None:
        """From here on nobody else may board: what is learnt next is not fresh for those who come later."""
        with self._flights._lock:
            self._departed = True

    def _leave(self, seat: Seat[T]) -> None:
        with self._flights._lock:
            if seat not in self._seats:
                return
            self._seats.remove(seat)
            deserted = self._deserted = not self._seats  # under the lock: nobody may board a flight that will stop
        self.audience.remove(seat.sink)
        if deserted:
            self.cancel.cancel()

    def _run(self) -> None:
        """Fly until landed; each turn of the loop is one attempt, led by the caller who boarded first."""
        while (work := self._leader()) is not None:
            try:
                result = work(self)
            except BaseException as error:
                self._failed(error)
            else:
                self._land(result, None)
        self._flights._retire(self)

    def _leader(self) -> Callable[[Flight[T]], T] | None:
        with self._flights._lock:
            if self._seats and not self._deserted:
                return self._seats[0].work
            self._flights._drop(self)  # in the same breath: a caller who boards now would never be told
            return None

    def _failed(self, error: BaseException) -> None:
        if not (isinstance(error, ImgpullError) and error.transient):
            self._land(None, error)
            return
        with self._flights._lock:
            seat = self._seats.pop(0) if self._seats else None
        if seat is not None:
            self.audience.remove(seat.sink)
            seat._deliver(None, error)

    def _land(self, result: T | None, error: BaseException | None) -> None:
        with self._flights._lock:
            self._flights._drop(self)  # whoever calls from now on starts afresh
            seats, self._seats = self._seats, []
        for number, seat in enumerate(seats):
            seat._deliver(result, error.copy() if number and isinstance(error, ImgpullError) else error)


class Flights(Generic[T]):
    """The live flights by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _live and every flight's seats
        self._live: dict[Hashable, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def board(
        self,
        key: Hashable,
        work: Callable[[Flight[T]], T],
        launch: Launch,
        landed: Landed[T],
        sink: EventSink = discard,
    ) -> Seat[T]:
        """A place on the live flight of ``key``, or on a new one, which ``launch`` then starts.

        ``landed`` is called exactly once, on the flight's thread, unless the seat is left before.
        """
        with self._lock:
            flight = self._live.get(key)
            start = False
            if flight is None or flight._deserted:
                flight = self._live[key] = Flight(key, self)
                start = True
            elif flight._departed:
                if flight._next is None or flight._next[0]._deserted:
                    flight._next = (Flight(key, self), launch)
                flight = flight._next[0]
            seat = Seat(flight, work, sink, landed, joined=bool(flight._seats))
            flight._seats.append(seat)
        flight.audience.add(sink)
        if start:
            self._start(flight, launch)
        return seat

    def _start(self, flight: Flight[T], launch: Launch) -> None:
        try:
            launch(flight._run)
        except BaseException as error:  # no thread to be had: whoever boarded meanwhile must not wait for ever
            flight._land(None, error)
            self._retire(flight)

    def _drop(self, flight: Flight[T]) -> None:
        """Take a flight off the table (lock held); its successor, if callers wait for one, takes its place."""
        if self._live.get(flight.key) is not flight:
            return
        if flight._next is not None:
            self._live[flight.key] = flight._next[0]
        else:
            del self._live[flight.key]

    def _retire(self, flight: Flight[T]) -> None:
        """The last thing a flight does: let its successor start."""
        with self._lock:
            self._drop(flight)
            following, flight._next = flight._next, None
        if following is not None:
            self._start(*following)


def fly_alone(work: Callable[[Flight[T]], T], launch: Launch, landed: Landed[T], sink: EventSink = discard) -> Seat[T]:
    """A flight that nobody can join: the world without suppression."""
    return Flights[T]().board(None, work, launch, landed, sink)
