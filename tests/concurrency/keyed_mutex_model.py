"""The models that frontrun explores, and mutants of KeyedMutex that it must refute.

Run by test_keyed_mutex_model.py as ``frontrun python keyed_mutex_model.py NAME…``, in a process of its own since
frontrun replaces the locks of the whole interpreter. Prints one JSON line per name: ``name holds explored seconds
explanation``.

The clock is virtual: under it frontrun counts a thread in ``Condition.wait`` as blocked; under the real one it goes on
scheduling it for ever. A deadlock is a failure of the model like a broken invariant.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import frontrun

from imgpull.errors import LockTimeoutError, PullCancelledError
from imgpull.locking import Cancellation, keyed_mutex

KEY = "k"


def without_slots(module: types.ModuleType) -> types.ModuleType:
    """The same module with ordinary attributes: frontrun can't look through a slot at the dictionary behind it."""
    path = Path(module.__file__ or "")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [line for line in node.body if not ast.unparse(line).startswith("__slots__")]
    twin = types.ModuleType(module.__name__)
    exec(compile(tree, str(path), "exec"), twin.__dict__)
    return twin


_twin = without_slots(keyed_mutex)
KeyedMutex: Any = _twin.KeyedMutex
_Hold: Any = _twin._Hold


class State:
    """A mutex, who is inside, and what went wrong."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.mutex = make()
        self.cancel = Cancellation()
        self.inside = 0
        self.entered = 0
        self.two_inside = False

    def enter(self, **options: Any) -> None:
        with self.mutex.hold(KEY, **options):
            self.two_inside = self.two_inside or self.inside > 0
            self.inside += 1
            self.entered += 1
            self.inside -= 1

    def enter_unless_cancelled(self) -> None:
        with contextlib.suppress(PullCancelledError):
            self.enter(cancel=self.cancel)

    def enter_unless_late(self) -> None:
        with contextlib.suppress(LockTimeoutError):
            self.enter(timeout_seconds=1)

    def stay_inside(self) -> None:
        with self.mutex.hold(KEY):
            time.sleep(1)  # virtual: when it is over is one more thing to be explored

    def is_well(self) -> bool:
        return not self.two_inside and not self.mutex._owners and not self.mutex._queues


def cancel_it(state: State) -> None:
    state.cancel.cancel()


@dataclass(frozen=True)
class Model:
    """What is explored. ``preemption_bound`` None is every interleaving."""

    workers: tuple[Callable[[State], None], ...]
    make: Callable[[], Any] = KeyedMutex
    entered: int | None = None
    """How often the key must have been held, where every worker must get it."""
    clock: str = "virtual"
    preemption_bound: int | None = None


class _WithHold(KeyedMutex):
    """A mutex whose holds are of another class."""

    kind: type

    def hold(self, key: str, timeout_seconds: float | None = None, cancel: Cancellation | None = None) -> Any:
        return self.kind(self, key, timeout_seconds, cancel)


class WakesNobody(KeyedMutex):
    """Hands over without telling."""

    def _settle(self, key: str) -> None:
        if self._queues.get(key):
            self._queues[key].popleft()
        if not self._queues.get(key, True):
            del self._queues[key]


class ForgetsTheOthers(KeyedMutex):
    """Drops the queue with those who still wait in it."""

    def _settle(self, key: str) -> None:
        super()._settle(key)
        self._queues.pop(key, None)


class LeavesTheQueue(KeyedMutex):
    """The heir stays in the queue, as if it waited behind itself."""

    def _settle(self, key: str) -> None:
        owner = self._owners.get(key)
        if owner is not None and owner.condition is not None:
            owner.condition.notify()


class LooksBeforeItLocks(_WithHold):
    """Finds the key free, then takes the lock, then believes what it saw."""

    class kind(_Hold):
        def __enter__(self) -> Any:
            if self._mutex._owners.get(self.key) is not None:
                return super().__enter__()
            with self._mutex._lock:
                self._mutex._owners.update({self.key: self})
            return self


class ReleasesWhatItSaw(_WithHold):
    """Looks for waiters without the lock: one that comes in between is never woken."""

    class kind(_Hold):
        def __exit__(self, *exc_info: object) -> None:
            waited_for = self.key in self._mutex._queues
            with self._mutex._lock:
                if waited_for:
                    self._mutex._withdraw(self)
                else:
                    del self._mutex._owners[self.key]


class FreesAndWakes(_WithHold):
    """Frees the key and wakes the first waiter, which then takes it without looking whether somebody overtook it."""

    class kind(_Hold):
        def __exit__(self, *exc_info: object) -> None:
            with self._mutex._lock:
                assert self._mutex._owners.pop(self.key, None) is self
                for hold in self._mutex._queues.get(self.key, ()):
                    assert hold.condition is not None
                    hold.condition.notify()
                    break

        def _sleep(self) -> bool:
            assert self.condition is not None
            with self._mutex._lock:
                if self._mutex._owners.get(self.key) is not None:
                    self.condition.wait()
                self._mutex._queues[self.key].remove(self)
                self._mutex._owners.update({self.key: self})
                self._mutex._settle(self.key)
                return True


class SleepsWithoutLooking(_WithHold):
    """Waits for a wake-up that may have come between queueing and sleeping."""

    class kind(_Hold):
        def _sleep(self) -> bool:
            assert self.condition is not None
            with self._mutex._lock:
                self.condition.wait()
                return True


class KeepsTheGrant(KeyedMutex):
    """Cancelled, a waiter leaves the queue, but not the key it has just been granted."""

    def _withdraw(self, hold: Any) -> None:
        if not hold._is_cancelled():
            super()._withdraw(hold)
        elif hold in self._queues.get(hold.key, ()):
            self._queues[hold.key].remove(hold)
            self._settle(hold.key)


TWO = (State.enter, State.enter)
THREE = (State.enter, State.enter, State.enter)
CANCELLED = (State.stay_inside, State.enter_unless_cancelled, cancel_it)
TIMED = (State.stay_inside, State.enter_unless_late)

MODELS = {
    "two threads": Model(TWO, entered=2),
    "three threads": Model(THREE, entered=3, preemption_bound=1),
    "a waiter that may be cancelled": Model(CANCELLED, preemption_bound=1),
    "a waiter that may time out": Model(TIMED, clock="explored"),
}
MUTANTS = {
    WakesNobody.__name__: Model(TWO, WakesNobody),
    ForgetsTheOthers.__name__: Model(THREE, ForgetsTheOthers, preemption_bound=1),
    LeavesTheQueue.__name__: Model(TWO, LeavesTheQueue),
    LooksBeforeItLocks.__name__: Model(TWO, LooksBeforeItLocks),
    ReleasesWhatItSaw.__name__: Model(TWO, ReleasesWhatItSaw),
    FreesAndWakes.__name__: Model(THREE, FreesAndWakes, preemption_bound=1),
    SleepsWithoutLooking.__name__: Model(TWO, SleepsWithoutLooking),
    KeepsTheGrant.__name__: Model(CANCELLED, KeepsTheGrant, preemption_bound=1),
}


def explore(model: Model) -> Any:
    """Both searches: the systematic one overlooks LooksBeforeItLocks and FreesAndWakes, the random one rare orders."""

    def is_well(state: State) -> bool:
        return state.is_well() and model.entered in (None, state.entered)

    options: dict[str, Any] = {
        "setup": lambda: State(model.make),
        "workers": list(model.workers),
        "invariant": is_well,
        "clock": model.clock,
        "trace_packages": ["imgpull.*"],
        "detect_io": False,
        "reproduce_on_failure": 0,
        "timeout_per_run": 30.0,  # a run takes 5 ms; on a machine that is busy elsewhere the default of 5 s is a flake
        "deadlock_timeout": 30.0,
    }
    systematic = frontrun.explore(**options, preemption_bound=model.preemption_bound, total_timeout=60)
    if not systematic.property_holds:
        return systematic
    random = frontrun.explore(**options, strategy="random", seed=20261124, max_attempts=100)
    random.num_explored += systematic.num_explored
    return random


def main(names: list[str]) -> None:
    for name in names:
        started = time.perf_counter()
        result = explore((MODELS | MUTANTS)[name])
        line = {
            "name": name,
            "holds": result.property_holds,
            "explored": result.num_explored,
            "seconds": round(time.perf_counter() - started, 2),
            "explanation": result.explanation or result.inconclusive_reason or "",
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [*MODELS, *MUTANTS])
