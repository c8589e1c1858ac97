"""Flights: boarding, leaving, taking over, departing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fakes.threads import Worker, start, until
from imgpull.errors import NotFoundError, PullCancelledError, RegistryUnavailableError
from imgpull.events import Event, EventSink, Resolved, Woken, discard
from imgpull.locking import Audience, Flight, Flights

EVENT = Resolved("a", "b")


class Caller:
    def __init__(self) -> None:
        self.told: list[tuple[str | None, BaseException | None]] = []

    def __call__(self, result: str | None, error: BaseException | None) -> None:
        self.told.append((result, error))


class Later:
    """A launch that keeps the run until the test lets it go."""

    def __init__(self) -> None:
        self.runs: list[Callable[[], None]] = []

    def __call__(self, run: Callable[[], None]) -> None:
        self.runs.append(run)

    def go(self) -> None:
        self.runs.pop(0)()


def answer(_: Flight[str]) -> str:
    return "landed"


def test_all_on_board_get_one_result_of_one_run() -> None:
    flights, later, callers, runs = Flights[str](), Later(), [Caller() for _ in range(5)], []

    def work(_: Flight[str]) -> str:
        runs.append(1)
        return "landed"

    seats = [flights.board("key", work, later, caller) for caller in callers]
    assert [seat.joined for seat in seats] == [False, True, True, True, True]
    later.go()
    assert [caller.told for caller in callers] == [[("landed", None)]] * 5
    assert (len(runs), len(flights), later.runs) == (1, 0, [])


def test_a_permanent_error_goes_to_each_as_an_object_of_its_own_and_is_forgotten() -> None:
    flights, later, first, second = Flights[str](), Later(), Caller(), Caller()

    def work(_: Flight[str]) -> str:
        raise NotFoundError("no such image", registry="r", status=404)

    flights.board("key", work, later, first)
    flights.board("key", work, later, second)
    later.go()
    (_, one), (_, two) = first.told[0], second.told[0]
    assert isinstance(one, NotFoundError)
    assert isinstance(two, NotFoundError)
    assert one is not two
    assert (two.status, str(two)) == (404, "no such image")
    third = Caller()
    flights.board("key", answer, later, third)
    later.go()
    assert third.told == [("landed", None)]


def test_a_transient_error_goes_to_the_leader_and_the_next_takes_over_with_its_own_work() -> None:
    flights, later, leader, second, third = Flights[str](), Later(), Caller(), Caller(), Caller()

    def fails(_: Flight[str]) -> str:
        raise RegistryUnavailableError("reset", registry="r")

    flights.board("key", fails, later, leader)
    flights.board("key", answer, later, second)
    flights.board("key", fails, later, third)
    later.go()
    assert isinstance(leader.told[0][1], RegistryUnavailableError)
    assert second.told == third.told == []
    later.go()
    assert second.told == third.told == [("landed", None)]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_work_is_nobody_elses(interrupt: type[BaseException]) -> None:
    flights, later, leader, second = Flights[str](), Later(), Caller(), Caller()

    def interrupted(_: Flight[str]) -> str:
        raise interrupt

    flights.board("key", interrupted, later, leader)
    flights.board("key", answer, later, second)
    later.go()
    later.go()
    assert isinstance(leader.told[0][1], PullCancelledError)
    assert isinstance(leader.told[0][1].__cause__, interrupt)
    assert second.told == [("landed", None)]


def test_a_leader_who_has_left_takes_the_transient_error_along() -> None:
    flights, later, second = Flights[str](), Later(), Caller()

    def fails(_: Flight[str]) -> str:
        seat.leave()
        raise RegistryUnavailableError("reset", registry="r")

    seat = flights.board("key", fails, later, Caller())
    flights.board("key", answer, later, second)
    later.go()
    later.go()
    assert second.told == [("landed", None)]


def test_a_flight_launched_twice_flies_once() -> None:
    flights, caller, runs = Flights[str](), Caller(), []

    def work(_: Flight[str]) -> str:
        runs.append(1)
        return "landed"

    def twice(run: Callable[[], None]) -> None:
        run()
        run()

    flights.board("key", work, twice, caller)
    assert (caller.told, runs, len(flights)) == ([("landed", None)], [1], 0)


def test_a_launch_that_fails_after_all_has_not_failed() -> None:
    flights, caller = Flights[str](), Caller()

    def fails_late(run: Callable[[], None]) -> None:
        run()
        raise RuntimeError("too late")

    flights.board("key", answer, fails_late, caller)
    assert caller.told == [("landed", None)]


def test_without_joining_each_has_a_flight_of_its_own_and_all_can_be_cancelled() -> None:
    flights, later, callers = Flights[str](joining=False), Later(), [Caller(), Caller()]
    seats = [flights.board("key", answer, later, caller) for caller in callers]
    assert [seat.joined for seat in seats] == [False, False]
    assert seats[0].flight is not seats[1].flight
    flights.cancel()
    assert all(seat.flight.cancel.cancelled for seat in seats)
    later.go()
    later.go()
    assert [caller.told for caller in callers] == [[("landed", None)]] * 2
    assert len(flights) == 0


def test_only_the_last_to_leave_stops_the_work() -> None:
    flights, later, callers = Flights[str](), Later(), [Caller(), Caller()]
    seats = [flights.board("key", answer, later, caller) for caller in callers]
    seats[0].leave()
    assert not seats[0].flight.cancel.cancelled
    seats[1].leave()
    assert seats[0].flight.cancel.cancelled
    fresh = Caller()
    assert flights.board("key", answer, later, fresh).flight is not seats[0].flight
    later.go()
    later.go()
    assert [caller.told for caller in callers] == [[], []]
    assert fresh.told == [("landed", None)]
    assert len(flights) == 0


def test_a_leader_who_leaves_does_not_stop_the_others() -> None:
    flights, later, leader, second = Flights[str](), Later(), Caller(), Caller()
    seat = flights.board("key", answer, later, leader)
    flights.board("key", answer, later, second)
    seat.leave()
    later.go()
    assert (leader.told, second.told) == ([], [("landed", None)])


def test_who_comes_after_departure_shares_the_next_flight() -> None:
    flights, later, early, late, latest = Flights[str](), Later(), Caller(), Caller(), Caller()
    runs: list[int] = []

    def work(flight: Flight[str]) -> str:
        flight.depart()
        runs.append(len(runs))
        if len(runs) == 1:
            seats = [flights.board("key", work, later, caller) for caller in (late, latest)]
            assert seats[0].flight is seats[1].flight is not flight
            assert later.runs == []
        return str(len(runs))

    flights.board("key", work, later, early)
    later.go()
    assert early.told == [("1", None)]
    later.go()
    assert late.told == latest.told == [("2", None)]
    assert (len(runs), len(flights)) == (2, 0)


@pytest.mark.parametrize("callers", [1, 2, 8])
def test_no_caller_sits_through_more_than_two_attempts_that_fail(callers: int) -> None:
    """With each leading one in turn, the last of eight would wait eight times as long."""
    flights, later, told, runs = Flights[str](), Later(), [Caller() for _ in range(callers)], []

    def fails(_: Flight[str]) -> str:
        runs.append([bool(caller.told) for caller in told])
        raise RegistryUnavailableError("503", registry="r")

    for caller in told:
        flights.board("key", fails, later, caller)
    while later.runs:
        later.go()
    assert runs == [[False] * callers, [True] + [False] * (callers - 1)][: min(callers, 2)]
    errors = [error for caller in told for _, error in caller.told]
    assert len({id(error) for error in errors if isinstance(error, RegistryUnavailableError)}) == callers
    assert len(flights) == 0


def test_who_came_during_an_attempt_that_failed_has_not_had_it() -> None:
    flights, later, first, second, third = Flights[str](), Later(), Caller(), Caller(), Caller()

    def fails_and(board: Caller | None) -> Callable[[Flight[str]], str]:
        def work(_: Flight[str]) -> str:
            if board is not None:
                flights.board("key", answer, later, board)
            raise RegistryUnavailableError("503", registry="r")

        return work

    flights.board("key", fails_and(None), later, first)
    flights.board("key", fails_and(third), later, second)
    later.go()
    later.go()
    assert [type(caller.told[0][1]) for caller in (first, second)] == [RegistryUnavailableError] * 2
    later.go()
    assert third.told == [("landed", None)]


def test_those_whom_a_failed_attempt_leaves_go_before_those_who_wait_for_the_next() -> None:
    flights, later, leader, second, late = Flights[str](), Later(), Caller(), Caller(), Caller()

    def fails(flight: Flight[str]) -> str:
        flight.depart()
        flights.board("key", fails, later, late)
        raise RegistryUnavailableError("reset", registry="r")

    flights.board("key", fails, later, leader)
    flights.board("key", answer, later, second)
    later.go()
    later.go()
    assert second.told == late.told == [("landed", None)]
    assert (len(flights), later.runs) == (0, [])


def test_a_seat_that_went_on_can_be_left() -> None:
    flights, later, second = Flights[str](), Later(), Caller()

    def fails(_: Flight[str]) -> str:
        raise RegistryUnavailableError("reset", registry="r")

    flights.board("key", fails, later, Caller())
    seat = flights.board("key", answer, later, second)
    later.go()
    seat.leave()
    assert seat.flight.cancel.cancelled
    later.go()
    assert (second.told, len(flights)) == ([], 0)


def test_what_is_cancelled_is_not_tried_again() -> None:
    flights, later, callers = Flights[str](), Later(), [Caller(), Caller()]

    def fails(_: Flight[str]) -> str:
        flights.cancel()
        raise RegistryUnavailableError("reset", registry="r")

    for caller in callers:
        flights.board("key", fails, later, caller)
    later.go()
    assert [type(caller.told[0][1]) for caller in callers] == [RegistryUnavailableError] * 2
    assert later.runs == []


@pytest.mark.parametrize("fails", [False, True], ids=["landed", "failed"])
@pytest.mark.parametrize("departs", [False, True], ids=["open", "departed"])
def test_a_caller_may_answer_by_boarding_again_and_wait(*, fails: bool, departs: bool) -> None:
    """As a future's callback does that pulls once more. The next flight may not depend on the thread it runs on."""
    flights, threads, told = Flights[str](), list[Worker](), threading.Event()
    again, other = Caller(), Caller()

    def launch(run: Callable[[], None]) -> None:
        threads.append(start(run, "flight"))

    def work(flight: Flight[str]) -> str:
        if departs:
            flight.depart()
        flights.board("key", answer, launch, other)  # waits for the next flight or, where it is open, boards this one
        if fails:
            raise RegistryUnavailableError("503", registry="r")
        return "landed"

    def answered(result: str | None, error: BaseException | None) -> None:
        flights.board("key", answer, launch, again)
        until(lambda: again.told, "who boarded again is told")
        told.set()

    flights.board("key", work, launch, answered)
    until(told.is_set, "the first caller's callback ends")
    for thread in threads:
        thread.outcome()
    assert again.told == other.told == [("landed", None)]
    assert len(flights) == 0


def test_a_launch_that_fails_is_everybodys_error() -> None:
    def no_thread(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    flights, caller = Flights[str](), Caller()
    flights.board("key", answer, no_thread, caller)
    assert isinstance(caller.told[0][1], RuntimeError)
    assert len(flights) == 0


def test_one_callers_callback_does_not_cost_the_others_their_result() -> None:
    def broken(_: str | None, __: BaseException | None) -> None:
        raise SystemExit

    flights, later, caller = Flights[str](), Later(), Caller()
    flights.board("key", answer, later, broken)
    flights.board("key", answer, later, caller)
    later.go()
    assert caller.told == [("landed", None)]


def test_work_that_sees_the_cancellation_ends_for_those_who_left() -> None:
    flights, later, caller = Flights[str](), Later(), Caller()
    started, stopped = threading.Event(), threading.Event()

    def work(flight: Flight[str]) -> str:
        started.set()
        flight.cancel.wait()
        stopped.set()
        raise PullCancelledError("cancelled")

    seat = flights.board("key", work, later, caller)
    thread = threading.Thread(target=later.go)
    thread.start()
    assert started.wait(10)
    seat.leave()
    assert stopped.wait(10)
    thread.join(10)
    assert (caller.told, len(flights)) == ([], 0)


def test_an_audience_tells_each_sink_once_however_it_is_nested() -> None:
    heard: list[Event] = []
    other: list[Event] = []
    inner: list[EventSink] = [heard.append]
    outer: list[EventSink] = [Audience(lambda: inner), inner[0], other.append, discard]
    audience = Audience(lambda: outer)
    audience(EVENT)
    assert (heard, other) == ([EVENT], [EVENT])
    outer.remove(inner[0])
    inner.clear()
    audience(EVENT)
    assert (len(heard), len(other)) == (1, 2)


def test_a_flights_events_go_to_those_on_board() -> None:
    flights, later, one, other = Flights[str](), Later(), list[Event](), list[Event]()

    def work(flight: Flight[str]) -> str:
        flight.audience(EVENT)
        seat.leave()
        flight.audience(EVENT)
        return "landed"

    seat = flights.board("key", work, later, Caller(), one.append)
    flights.board("key", work, later, Caller(), other.append)
    later.go()
    assert (len(one), len(other)) == (1, 2)


def test_a_sink_that_fails_is_not_the_works_failure(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise SystemExit

    audience = Audience(lambda: (broken, heard.append))
    with caplog.at_level("INFO", logger="imgpull"):
        audience(EVENT)
    assert heard == [EVENT]
    assert "an event sink failed" in caplog.text


def test_who_comes_hears_what_comes_and_who_has_left_hears_no_more() -> None:
    flights, later = Flights[str](), Later()
    heard: list[list[str]] = [[], [], []]

    def work(flight: Flight[str]) -> str:
        def tell(key: str) -> None:
            flight.audience(Woken(key, found_held=False, slept_seconds=0.0))

        tell("two")
        late = flights.board("key", answer, later, Caller(), lambda event: heard[2].append(event.key))  # type: ignore[union-attr]
        tell("three")
        seats[1].leave()
        tell("without the second")
        late.leave()
        tell("the first alone")
        return "done"

    seats = [
        flights.board("key", work, later, Caller(), lambda event, number=number: heard[number].append(event.key))  # type: ignore[misc,union-attr]
        for number in range(2)
    ]
    assert "key" in flights
    later.go()
    assert "key" not in flights
    assert heard == [
        ["two", "three", "without the second", "the first alone"],
        ["two", "three"],
        ["three", "without the second"],
    ]
