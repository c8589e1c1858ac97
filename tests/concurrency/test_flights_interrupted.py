"""Ctrl-C at every place in flight.py where boarding can be interrupted, one run each: nobody else is stranded by it.

A thread (the *victim*) boards under a trace function that raises KeyboardInterrupt at the n-th such place (CPython
looks for signals on entering a function and after a call); n goes up until a run ends without being struck.
"""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from fakes.threads import DEADLINE_SECONDS, Worker, start, until
from imgpull.locking import Flight, Flights, Seat
from imgpull.locking import flight as flight_module


class Interrupts:
    """The trace function."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self.place = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != flight_module.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.each

    def each(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and not self.place and _looks_for_signals(frame):
            self.seen += 1
            if self.seen == self.at:
                self.place = f"{frame.f_code.co_name} {frame.f_lineno}"
                raise KeyboardInterrupt
        return self.each


def _looks_for_signals(frame: FrameType) -> bool:
    before = [i.opname for i in dis.get_instructions(frame.f_code) if i.offset < frame.f_lasti]
    return bool(before) and (before[-1].startswith("CALL") or before[-1] == "RESUME")


class Told:
    def __init__(self) -> None:
        self.results: list[tuple[str | None, BaseException | None]] = []

    def __call__(self, result: str | None, error: BaseException | None) -> None:
        self.results.append((result, error))


class Threads:
    """A launch: each flight on a thread of its own. ``before`` and ``after`` run on the launching thread."""

    def __init__(self, before: Callable[[], object] = int, after: Callable[[], object] = int) -> None:
        self.before, self.after = before, after
        self.threads: list[Worker] = []

    def __call__(self, run: Callable[[], None]) -> None:
        self.before()
        self.threads.append(start(run, "flight"))
        self.after()

    def join(self) -> None:
        for thread in self.threads:
            thread.outcome()


def answer(_: Flight[str]) -> str:
    return "landed"


def depart_and_answer(flight: Flight[str]) -> str:
    flight.depart()
    return "landed"


def empty_table(flights: Flights[str]) -> Seat[str] | None:
    return None


def departed(flights: Flights[str]) -> Seat[str]:
    """A flight that has departed and stays in the air until its seat is left."""
    in_the_air = threading.Event()

    def work(flight: Flight[str]) -> str:
        flight.depart()
        in_the_air.set()
        flight.cancel.wait()
        return "late"

    seat = flights.board("key", work, lambda run: start(run, "ahead") and None, Told())
    assert in_the_air.wait(DEADLINE_SECONDS)
    return seat


def interrupted(at: int, prepare: Callable[[Flights[str]], Seat[str] | None]) -> str:
    """One run: where the victim was struck."""
    flights, launch, trace, told = Flights[str](), Threads(), Interrupts(at), Told()
    ahead = prepare(flights)

    def victim() -> None:
        sys.settrace(trace)
        try:
            flights.board("key", answer, launch, Told())
        finally:
            sys.settrace(None)

    error = start(victim, "victim").done().error
    assert type(error) is (KeyboardInterrupt if trace.place else type(None))
    flights.board("key", answer, launch, told)
    if ahead is not None:
        ahead.leave()
    until(lambda: told.results, f"the next caller is told, after an interrupt at {trace.place}")
    launch.join()
    until(lambda: not flights, f"the table is empty, after an interrupt at {trace.place}")
    assert told.results == [("landed", None)]
    return trace.place


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="looks for signals at other places; the code is the same")
@pytest.mark.parametrize("prepare", [empty_table, departed])
def test_every_place(prepare: Callable[[Flights[str]], Seat[str] | None]) -> None:
    places = []
    while place := interrupted(len(places) + 1, prepare):
        places.append(place)
    assert len(places) > 15, "the sweep sweeps"


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_launch_strands_nobody_who_boarded_meanwhile(when: str) -> None:
    """``before``: no thread was started; ``after``: one was, and the launching thread does not know it."""
    flights, told, go = Flights[str](), Told(), threading.Event()
    runs: list[int] = []

    def work(_: Flight[str]) -> str:
        assert go.wait(DEADLINE_SECONDS)
        runs.append(1)
        return "landed"

    def meanwhile() -> None:
        launch.before = launch.after = int
        flights.board("key", work, launch, told)
        raise KeyboardInterrupt

    launch = Threads(**{when: meanwhile})
    mine = Told()
    with pytest.raises(KeyboardInterrupt):
        flights.board("key", work, launch, mine)
    go.set()
    until(lambda: told.results, "the other caller is told")
    launch.join()
    assert (told.results, mine.results, len(flights), runs) == ([("landed", None)], [], 0, [1])


def test_an_interrupted_launch_with_nobody_else_leaves_nothing() -> None:
    flights, launch = Flights[str](), Threads(before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        flights.board("key", answer, launch, Told())
    assert (len(flights), launch.threads) == (0, [])
