"""An interrupt at every instruction of keyed_mutex.py, one run each.

A thread (the *victim*) plays a scenario under a trace function that raises KeyboardInterrupt at the n-th instruction of
keyed_mutex.py; n goes up until a run ends without being struck. The victim survives the interrupt and stays alive, so
that the hand-over at a thread's end can't tidy up behind it. Then nothing may be left: no lock taken, no waiter
counted, no key held, nobody stuck, no callback on the cancellation.

What does remain is listed here and asserted, so that it can neither grow nor be forgotten:

``KEY_STAYS``
    where a holder that is interrupted keeps its key, until its thread ends (which is then tried, too).
``CALLBACK_STAYS``
    where an interrupted waiter may leave its callback on the cancellation. It wakes nobody when it is called, and goes
    when the cancellation does.
``NOT_INTERRUPTIBLE``
    where the trace function can interrupt and CPython can't. It looks for signals and asynchronous exceptions after a
    call, on entering a function and on jumping back, so not between the end of a ``with lock:`` block and the call that
    releases the lock. A lock that stays taken there is the tracer's doing; anywhere else it would be ours.
"""

from __future__ import annotations

import dis
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import pytest

from fakes.threads import DEADLINE_SECONDS, Worker, start, until
from imgpull.errors import LockTimeoutError, PullCancelledError
from imgpull.locking import Cancellation, KeyedMutex, keyed_mutex

KEY = "blob://sha256:1"

KEY_STAYS = {
    ("__exit__", "before its try"),  # the window of every context manager written in Python
    ("__enter__", "return"),  # CPython does not look for interrupts between this and the caller's with block
}
CALLBACK_STAYS = {
    ("_wait", "before its try"),  # the callback is there, and what takes it back not yet in a variable
    ("_wait", ""),  # in the finally, before the call that takes it back
}
NOT_INTERRUPTIBLE = {"leaving a with"}


@dataclass
class Strike:
    """One run: where the interrupt struck and what was left."""

    function: str = ""
    instruction: int = -1
    region: str = ""
    lock_left: bool = False
    key_left: bool = False
    callback_left: bool = False
    stuck: bool = False
    error: BaseException | None = None

    @property
    def place(self) -> tuple[str, str]:
        return self.function, self.region

    @property
    def struck(self) -> bool:
        return self.instruction >= 0


class Tracer:
    """Raises at the ``at``-th instruction of keyed_mutex.py that the calling thread executes."""

    def __init__(self, at: int, strike: Strike, file: str = keyed_mutex.__file__) -> None:
        self.at = at
        self.strike = strike
        self.file = file
        self.seen = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != self.file:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self.each

    def each(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and self.is_due(frame):
            self.strike.function = frame.f_code.co_name
            self.strike.instruction = frame.f_lasti
            self.strike.region = region(frame.f_code, frame.f_lasti)
            raise KeyboardInterrupt
        return self.each

    def is_due(self, frame: FrameType) -> bool:
        self.seen += 1
        return self.seen == self.at


def region(code: CodeType, offset: int) -> str:
    """In which of the parts named above an instruction lies; "" for the rest."""
    instructions = list(dis.get_instructions(code))
    index = next(number for number, i in enumerate(instructions) if i.offset == offset)
    if instructions[index].opname in {"WITH_EXCEPT_START", "PUSH_EXC_INFO"} or _in_exit_call(instructions, index):
        return "leaving a with"
    if instructions[index].opname in {"RETURN_VALUE", "RETURN_CONST"}:
        return "return"
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
    guarded = min((entry.start for entry in entries), default=sys.maxsize)
    return "before its try" if offset < guarded else ""


def _in_exit_call(instructions: list[dis.Instruction], index: int) -> bool:
    """Whether it belongs to the call of ``lock.__exit__(None, None, None)``: three constants, then up to the CALL.

    Before it may stand the SWAP that keeps a value which is being returned out of the way.
    """
    names = [i.opname if i.opname != "LOAD_CONST" or i.argval is not None else "NONE" for i in instructions]
    for first in range(max(0, index - 4), index + 2):
        if names[first : first + 3] == ["NONE"] * 3:
            last = names.index("CALL", first)
            start_of_call = first - 1 if names[first - 1] == "SWAP" else first
            return start_of_call <= index <= last
    return False


class Scene:
    """What is around the victim: the mutex, a cancellation, other threads."""

    def __init__(self) -> None:
        self.mutex = KeyedMutex()
        self.cancel = Cancellation()
        self.outer: Any = None
        """A hold of the victim's own from before the trace."""
        self.hold: Any = None
        """The hold that the victim enters or leaves under the trace."""
        self.others: list[Worker] = []
        self.victim_is_done = threading.Event()
        self.victim_may_die = threading.Event()

    def enter(self, **options: Any) -> None:
        self.hold = self.mutex.hold(KEY, **options)
        with self.hold:
            pass

    def occupied(self, leave: Callable[[Scene, Any], None]) -> None:
        """Another thread holds the key until the victim sleeps (or is done), then does ``leave``."""
        inside = threading.Event()

        def occupy() -> None:
            hold = self.mutex.hold(KEY)
            hold.__enter__()
            inside.set()
            until(self._victim_sleeps, "the victim sleeps or is done")
            leave(self, hold)

        self.others.append(start(occupy, "holder"))
        assert inside.wait(DEADLINE_SECONDS)

    def queued(self) -> None:
        """Another thread waits for the key, which is held. Not to be seen by a count of waiters: the victim may be
        struck, and gone from among them, meanwhile."""
        hold = self.mutex.hold(KEY)

        def wait() -> None:
            with hold:
                pass

        def waits() -> bool:
            with self.mutex._lock:  # it gets its condition and its place in the queue in one go
                return hold.condition is not None

        self.others.append(start(wait, "waiter"))
        until(waits, "the other thread waits")

    def _victim_sleeps(self) -> bool:
        if self.victim_is_done.is_set():
            return True
        condition = getattr(self.hold, "condition", None)
        return condition is not None and bool(condition._waiters)


@dataclass(frozen=True)
class Scenario:
    """``prepare`` runs before the trace, ``act`` under it, both in the victim's thread."""

    name: str
    act: Callable[[Scene], None]
    prepare: Callable[[Scene], None] = lambda scene: None
    expected: type[BaseException] | None = None


def _release(scene: Scene, hold: Any) -> None:
    hold.__exit__(None, None, None)


def _release_with_another_behind(scene: Scene, hold: Any) -> None:
    scene.queued()
    hold.__exit__(None, None, None)


def _cancel(scene: Scene, hold: Any) -> None:
    scene.cancel.cancel()
    hold.__exit__(None, None, None)


def _outlast(scene: Scene, hold: Any) -> None:
    assert scene.victim_is_done.wait(DEADLINE_SECONDS)
    hold.__exit__(None, None, None)


def _release_and_cancel(scene: Scene, hold: Any) -> None:
    scene.queued()
    with scene.mutex._lock:  # both before the victim can look
        hold.__exit__(None, None, None)
        scene.cancel.cancel()


def _hold_with_two_behind(scene: Scene) -> None:
    scene.hold = scene.mutex.hold(KEY)
    scene.hold.__enter__()
    scene.queued()
    scene.queued()


def _hold_already(scene: Scene) -> None:
    scene.outer = scene.mutex.hold(KEY)
    scene.outer.__enter__()


SCENARIOS = [
    Scenario("undisputed", Scene.enter),
    Scenario("held by itself", Scene.enter, _hold_already, RuntimeError),
    Scenario("a try fails", lambda s: s.enter(timeout_seconds=0), lambda s: s.occupied(_outlast), LockTimeoutError),
    Scenario("handing over", lambda s: s.hold.__exit__(None, None, None), _hold_with_two_behind),
    Scenario("granted", Scene.enter, lambda s: s.occupied(_release)),
    Scenario("granted, never cancelled", lambda s: s.enter(cancel=s.cancel), lambda s: s.occupied(_release)),
    Scenario("granted, one behind", Scene.enter, lambda s: s.occupied(_release_with_another_behind)),
    Scenario("timed out", lambda s: s.enter(timeout_seconds=0.001), lambda s: s.occupied(_outlast), LockTimeoutError),
    Scenario("cancelled", lambda s: s.enter(cancel=s.cancel), lambda s: s.occupied(_cancel), PullCancelledError),
    Scenario(
        "granted and cancelled",
        lambda s: s.enter(cancel=s.cancel),
        lambda s: s.occupied(_release_and_cancel),
        PullCancelledError,
    ),
]


def play(scenario: Scenario, tracer: Tracer, patience_seconds: float = DEADLINE_SECONDS) -> Strike:
    """One run; returns what it left, after having seen that the end of the victim's thread clears that, too."""
    scene, strike = Scene(), tracer.strike

    def victim() -> None:
        scenario.prepare(scene)
        error = _under(tracer, lambda: scenario.act(scene))
        while scene.mutex._lock._is_owned():  # type: ignore[attr-defined]
            strike.lock_left = True
            scene.mutex._lock.release()
        if scene.outer is not None:
            scene.outer.__exit__(None, None, None)
        scene.victim_is_done.set()
        assert scene.victim_may_die.wait(DEADLINE_SECONDS)
        if error is not None:
            raise error

    thread = start(victim, "victim")
    assert scene.victim_is_done.wait(DEADLINE_SECONDS), thread.done().error
    strike.stuck = not _others_get_through(scene, patience_seconds)
    strike.key_left = _victim_owns(scene)
    strike.callback_left = bool(scene.cancel._callbacks)
    scene.victim_may_die.set()
    strike.error = thread.done().error
    for other in scene.others:
        other.outcome()
    until(lambda: len(scene.mutex) == 0, "no key is live once the victim's thread has ended")
    assert scene.mutex._queues == {}
    return strike


def _others_get_through(scene: Scene, patience_seconds: float) -> bool:
    """Whether every other thread ends, or waits only because the victim holds the key."""
    try:
        until(lambda: _victim_owns(scene) or not any(other.is_alive() for other in scene.others), "", patience_seconds)
    except AssertionError:
        with scene.mutex._lock:
            scene.mutex._settle(KEY)  # tell the owner, so that this test leaves no thread behind
        return False
    return True


def _victim_owns(scene: Scene) -> bool:
    with scene.mutex._lock:
        return scene.hold is not None and scene.mutex._owners.get(KEY) is scene.hold


def _under(tracer: Tracer, act: Callable[[], None]) -> BaseException | None:
    if sys.version_info[:2] == (3, 12):  # sends no opcode to a tracer before whose start nobody had asked for them
        sys._getframe().f_trace_opcodes = True
    sys.settrace(tracer)
    try:
        act()
    except BaseException as error:
        return error
    finally:
        sys.settrace(None)
    return None


def left_by(strike: Strike) -> list[str]:
    return [what for what in ("lock_left", "key_left", "callback_left", "stuck") if getattr(strike, what)]


def sweep(
    scenario: Scenario, tracer: Callable[[int, Strike], Tracer], patience_seconds: float = DEADLINE_SECONDS
) -> Iterator[Strike]:
    """A run per instruction, until one ends without being struck, which must then end as the scenario says."""
    at = 0
    while True:
        at += 1
        strike = play(scenario, tracer(at, Strike()), patience_seconds)
        if not strike.struck:
            assert type(strike.error) is (scenario.expected or type(None)), strike.error
            assert left_by(strike) == []
            return
        yield strike


@functools.cache
def strikes_of(scenario: Scenario) -> list[Strike]:
    return list(sweep(scenario, Tracer))


BYTECODE_KNOWN = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="since 3.14 a with block calls __enter__ by an ordinary call: other regions"
)
OPCODES_SENT = pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0), reason="3.13.0 sends the opcodes of some calls and not of others"
)


@OPCODES_SENT
@BYTECODE_KNOWN
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_instruction_of_keyed_mutex(scenario: Scenario) -> None:
    strikes = strikes_of(scenario)
    assert len(strikes) > 40, "the sweep sweeps"
    assert {strike.place for strike in strikes if strike.lock_left and strike.region not in NOT_INTERRUPTIBLE} == set()
    assert [strike.place for strike in strikes if strike.stuck] == []
    possible = [strike for strike in strikes if strike.region not in NOT_INTERRUPTIBLE]
    assert {strike.place for strike in possible if strike.key_left} <= KEY_STAYS
    assert {strike.place for strike in possible if strike.callback_left} <= CALLBACK_STAYS
    assert {type(strike.error) for strike in possible} == {KeyboardInterrupt}


@OPCODES_SENT
@BYTECODE_KNOWN
def test_what_remains_is_what_is_listed() -> None:
    strikes = [strike for scenario in SCENARIOS for strike in strikes_of(scenario)]
    assert {strike.place for strike in strikes if strike.key_left} == KEY_STAYS
    assert {strike.place for strike in strikes if strike.callback_left} == CALLBACK_STAYS
    assert {strike.region for strike in strikes if strike.lock_left} == NOT_INTERRUPTIBLE


class TracerOfCondition(Tracer):
    """Raises inside ``threading.Condition``, but only where CPython looks for interrupts: after a call."""

    def __init__(self, at: int, strike: Strike) -> None:
        super().__init__(at, strike, threading.__file__)

    def is_due(self, frame: FrameType) -> bool:
        instructions = [i for i in dis.get_instructions(frame.f_code) if i.offset < frame.f_lasti]
        return bool(instructions) and instructions[-1].opname.startswith("CALL") and super().is_due(frame)


@pytest.mark.parametrize("scenario", SCENARIOS[3:], ids=lambda scenario: scenario.name)
def test_every_call_inside_condition(scenario: Scenario) -> None:
    strikes = list(sweep(scenario, TracerOfCondition))
    assert len(strikes) >= 3, "the sweep sweeps"
    assert [(strike.place, left_by(strike)) for strike in strikes if left_by(strike)] == []
    assert {type(strike.error) for strike in strikes} == {KeyboardInterrupt}


@OPCODES_SENT
def test_a_lost_hand_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep has teeth: without the repair in __exit__, an interrupted release strands those who wait."""

    def careless(self: Any, *exc_info: object) -> None:
        with self._mutex._lock:
            self._mutex._withdraw(self)

    monkeypatch.setattr(keyed_mutex._Hold, "__exit__", careless)
    handing_over = next(scenario for scenario in SCENARIOS if scenario.name == "handing over")
    strikes = list(sweep(handing_over, Tracer, patience_seconds=0.05))
    assert any(strike.stuck and strike.function == "_settle" for strike in strikes)
    assert any(strike.key_left and strike.function == "_withdraw" for strike in strikes)
