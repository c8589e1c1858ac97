"""Flights: work that belongs to no caller.

A **flight** is one run of some work under a key. Callers *board* it, which costs one list entry, and wait for it to
*land*; they hold no key and no thread of it. A caller may *leave* at any time; when the last one has left, the flight's
:class:`Cancellation` fires and the work stops. This is moby's ``xfer`` transfer with kmutex's take-over:

- a result goes to everybody on board;
- a **permanent** error goes to everybody on board, each with an exception object of its own, and is never remembered;
- a **transient** error (:attr:`ImgpullError.transient`) goes to the caller who led, and to those for whom it is the
  second that began with them on board. The others board the next flight, which starts from what this one left behind.
- an **interrupt** in the work (KeyboardInterrupt, SystemExit) goes to the caller who led, as PullCancelledError.

A flight that has *departed* takes no more passengers: those who come later board the next one, which starts when this
one has landed. That is how a call that must be fresh joins only what was resolved after it began.

The next flight is in the air before anybody is told of this one: a caller may well answer by boarding it, and wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from imgpull.errors import ImgpullError, PullCancelledError
from imgpull.events import Event, EventSink, discard
from imgpull.locking.cancellation import Cancellation
from imgpull.locking.moments import now_ns

__all__ = ["Audience", "Flight", "Flights", "Landed", "Launch", "Seat", "tell"]

T = TypeVar("T")
Landed = Callable[[T | None, BaseException | None], None]
"""What a seat is told when its flight lands: the result, or the error."""
Launch = Callable[[Callable[[], None]], None]
"""Starts a flight: runs the given callable on a thread, a pool, or here and now."""

_ENOUGH = 2
"""So many transient errors are an answer: if each of N callers led in turn, the last would wait N times as long."""
_log = logging.getLogger("imgpull.locking")


class Audience:
    """A sink that passes each event once to each distinct sink behind it, however often and deeply it is nested."""

    __slots__ = ("_sinks",)

    def __init__(self, sinks: Callable[[], Iterable[EventSink]]) -> None:
        """``sinks()`` are those of the moment; the same one must be the same object each time."""
        self._sinks = sinks

    def leaves(self) -> dict[int, EventSink]:
        found: dict[int, EventSink] = {}
        for sink in self._sinks():
            if isinstance(sink, Audience):
                found.update(sink.leaves())
            elif sink is not discard:
                found[id(sink)] = sink
        return found

    def __call__(self, event: Event) -> None:
        for sink in self.leaves().values():
            tell(sink, event)


def tell(sink: EventSink, event: Event) -> None:
    """What the sink raises goes no further."""
    try:
        sink(event)
    except BaseException:  # SystemExit, too: a sink runs on others' time
        _log.info("an event sink failed on %r", event, exc_info=True)


class Seat(Generic[T]):
    """One caller's place on a flight, or on the one that follows it."""

    __slots__ = ("_failures", "_landed", "flight", "joined", "sink", "work")

    def __init__(self, flight: Flight[T], work: Callable[[Flight[T]], T], sink: EventSink, landed: Landed[T]) -> None:
        self.flight = flight
        self.work = work
        self.sink = sink
        self.joined = False
        """Whether somebody else was on board before."""
        self._failures = 0
        """Transient errors of flights that began with this seat taken."""
        self._landed: Landed[T] | None = landed

    def leave(self) -> None:
        """Give the place up; nothing will be delivered. The flight stops when nobody is left."""
        with self.flight._flights._lock:
            flight = self.flight
            if self not in flight._seats:
                return
            flight._seats.remove(self)
            flight._distinct = None
            deserted = flight._deserted = not flight._seats  # under the lock: nobody may board a flight that will stop
        if deserted:
            flight.cancel.cancel()

    def _deliver(self, result: T | None, error: BaseException | None) -> None:
        landed, self._landed = self._landed, None
        if landed is None:
            return
        try:
            landed(result, error)
        except BaseException:
            # One caller's callback, whatever it raises, must not keep the others from their result.
            _log.info("a caller failed to take its result", exc_info=True)


class Flight(Generic[T]):
    """One run of the work under ``key``, led by the caller who boarded first. Made by :class:`Flights` only."""

    def __init__(self, key: Hashable, flights: Flights[T], launch: Launch) -> None:
        self.key = key
        self.cancel = Cancellation()
        """Fires when the last caller has left; the work must look at it."""
        self.audience = Audience(self._sinks)
        """Takes the flight's events to everyone on board."""
        self.boarded_ns = 0
        """When the last seat was taken (:func:`now_ns`); final once the flight has departed."""
        self._flights = flights
        self._launch = launch
        # All guarded by the table's lock.
        self._seats: list[Seat[T]] = []
        self._distinct: tuple[EventSink, ...] | None = None
        """The seats' sinks, each once, until somebody comes or goes: a thousand callers may have one sink."""
        self._next: Flight[T] | None = None
        self._claimed = False
        self._departed = False
        self._deserted = False

    def _sinks(self) -> tuple[EventSink, ...]:
        with self._flights._lock:
            if self._distinct is None:
                self._distinct = tuple({id(seat.sink): seat.sink for seat in self._seats}.values())
            return self._distinct

    def depart(self) -> None:
        """From here on nobody else may board: what is learnt next is not fresh for those who come later."""
        with self._flights._lock:
            self._departed = True

    def _board(self, seat: Seat[T]) -> None:
        """Take a seat (lock held). It knows its flight first, so that whoever is interrupted here can leave."""
        seat.flight = self
        seat.joined = bool(self._seats)
        self._seats.append(seat)
        self.boarded_ns = now_ns()
        self._distinct = None

    def _start(self) -> None:
        try:
            self._launch(self._run)
        except Exception as error:  # no thread to be had: whoever boarded meanwhile must not wait for ever
            if self._claim():
                self._land(None, error)

    def _claim(self) -> bool:
        """Whether the caller is the one who flies: after an interrupted launch a second one may follow."""
        with self._flights._lock:
            claimed, self._claimed = self._claimed, True
            return not claimed

    def _run(self) -> None:
        if not self._claim():
            return
        with self._flights._lock:
            aboard = tuple(self._seats)
        result = None
        try:
            if aboard:
                result = aboard[0].work(self)
        except BaseException as error:
            self._failed(aboard, error)
        else:
            self._land(result, None)

    def _failed(self, aboard: Sequence[Seat[T]], error: BaseException) -> None:
        """``aboard``: who was when the attempt began. The first has led it, the others have had it, too."""
        leader, *others = aboard
        if not isinstance(error, Exception):  # it was meant for nobody here
            cancelled = PullCancelledError(f"the pull was interrupted by {type(error).__name__}")
            cancelled.__cause__ = error
            self._land(None, cancelled, [leader])
        elif isinstance(error, ImgpullError) and error.transient and not self.cancel.cancelled:
            for seat in others:
                seat._failures += 1
            self._land(None, error, [leader, *(seat for seat in others if seat._failures == _ENOUGH)])
        else:
            self._land(None, error)

    def _land(self, result: T | None, error: BaseException | None, concerned: Sequence[Seat[T]] | None = None) -> None:
        """Deliver to all, or to those ``concerned`` while the others go on; the last thing a flight does."""
        with self._flights._lock:
            seats, self._seats, self._distinct = self._seats, [], None
            if concerned is not None:
                going_on = [seat for seat in seats if seat not in concerned]
                seats = [seat for seat in seats if seat in concerned]
                self._send_on(going_on)
            following = self._flights._replace(self)
        if following is not None:
            following._start()
        for number, seat in enumerate(seats):
            seat._deliver(result, error.copy() if number and isinstance(error, ImgpullError) else error)

    def _send_on(self, seats: list[Seat[T]]) -> None:
        """Board ``seats`` on the next flight, ahead of those who wait for it (lock held)."""
        if not seats:
            return
        if self._next is None or self._next._deserted:
            self._next = Flight(self.key, self._flights, self._launch)
        for seat in seats:
            seat.flight = self._next
        self._next._seats[:0] = seats
        self._next.boarded_ns = now_ns()
        self._next._distinct = None


class Flights(Generic[T]):
    """The live flights by key. With ``joining=False`` each call has a flight of its own: no suppression."""

    def __init__(self, *, joining: bool = True) -> None:
        self.joining = joining
        self._lock = threading.Lock()  # guards _live and every flight's seats
        self._live: dict[Hashable, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: Hashable) -> bool:
        """Whether a flight of ``key`` is live, and somebody wants it; it may land at any moment."""
        live = self._live.get(key)
        return live is not None and not live._deserted

    def board(
        self,
        key: Hashable,
        work: Callable[[Flight[T]], T],
        launch: Launch,
        landed: Landed[T],
        sink: EventSink = discard,
    ) -> Seat[T]:
        """A place on the live flight of ``key``, or on a new one, which ``launch`` then starts.

        ``landed`` is called exactly once, on the flight's thread, unless the seat is left before. An interrupt (Ctrl-C
        at any instruction) leaves the seat, and strands nobody who boarded in the meantime.
        """
        mine = Flight(key if self.joining else object(), self, launch)
        seat = Seat(mine, work, sink, landed)
        try:
            if self._take(seat, mine):
                mine._start()
        except BaseException:
            seat.leave()
            self._rescue(mine)
            raise
        return seat

    def cancel(self) -> None:
        """Stop every live flight: PullCancelledError for everyone on board."""
        with self._lock:
            live = list(self._live.values())
        for flight in live:
            flight.cancel.cancel()

    def _take(self, seat: Seat[T], mine: Flight[T]) -> bool:
        """Board the live flight or its successor; where there is none, ``mine``. Whether that is to be started now."""
        with self._lock:
            live = self._live.get(mine.key)
            if live is None or live._deserted:
                mine._board(seat)
                self._live[mine.key] = mine  # last: from here on others may board it
                return True
            if live._departed and (live._next is None or live._next._deserted):
                mine._board(seat)
                live._next = mine
            else:
                (live._next if live._departed and live._next else live)._board(seat)
            return False

    def _rescue(self, mine: Flight[T]) -> None:
        """``mine`` may have been published and not launched: fly those who boarded it, or take it off the table."""
        if self._live.get(mine.key) is mine:
            if mine._deserted:
                mine._run()
            else:
                mine._start()

    def _replace(self, flight: Flight[T]) -> Flight[T] | None:
        """Take a flight off the table (lock held); the one that follows it, if any, takes its place and is returned."""
        following, flight._next = flight._next, None
        if self._live.get(flight.key) is flight:
            if following is None:
                del self._live[flight.key]
            else:
                self._live[flight.key] = following
        return following
