"""One run: N pulls that start at a barrier, in a process of their own, on an empty store.

A process of its own makes the peak memory and the processor time the run's alone, and leaves nothing warm for the next
arm. Everything is imported before the barrier falls: what is measured is a library in a process that has been up for
a while, as containerd's change measured a daemon.

The parent writes a :class:`Spec` as JSON to the child's standard input and reads records, one JSON line each.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import pkgutil
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.origin import ROOT

if TYPE_CHECKING:
    from benchmarks.baselines import Arm
    from benchmarks.record import PullTrace, Timeline
    from imgpull.puller import Puller
    from imgpull.store import Image, Store

__all__ = ["MeasureError", "Spec", "measure", "peak_rss_bytes", "preload", "said_by"]

_STACK_BYTES = 512 * 1024
"""A thousand callers are a thousand threads; eight MiB of address space for each would be refused in small machines."""
_PRELOADED = ("urllib3.response", "concurrent.futures", "isal.igzip_lib")
"""Not sqlite-utils: a pull never loads it, and where numpy is installed it brings that, with threads that spin."""


class MeasureError(Exception):
    """A run gave no record; the message holds what its process said last."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What one run does."""

    scenario: str
    arm: str
    image: str
    references: tuple[str, ...]
    """Pull *n* asks for the *n*-th of these, modulo their number."""
    pulls: int
    repeat: int
    store: str
    durability: str = "full"
    timeline: bool = False
    image_bytes: int = 0
    image_layers: int = 0
    """Distinct blob bytes and distinct chains of all references, 0 where they are not known."""
    keep_rootfs: str = ""
    """Where the first reference is unpacked to after the measurement; empty: nowhere."""
    seed: int = 0
    """Of the random sleeps. The threads' order is the kernel's, so one seed does not make two runs the same."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        fields = json.loads(text)
        return cls(**{**fields, "references": tuple(fields["references"])})


def measure(spec: Spec, timeout_seconds: float | None = None) -> list[dict[str, Any]]:
    """Runs ``spec`` in a child process; returns its records, the run's own first. Raises MeasureError, also where it
    is not done in time, and then it is ended."""
    what = f"{spec.arm} × {spec.pulls} of {spec.image}"
    said = said_by("benchmarks.measure", spec.to_json(), what, timeout_seconds)
    return [json.loads(line) for line in said.splitlines() if line]


def said_by(module: str, order: str, what: str, timeout_seconds: float | None = None) -> str:
    """What ``module``, run in a process of its own, says on its output when it gets ``order`` on its input. Raises
    MeasureError, which says that ``what`` failed and why, also where it is not done in time, and then it is ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module], cwd=ROOT, input=order, capture_output=True, text=True, check=False,
            timeout=timeout_seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MeasureError(f"not done within {timeout_seconds:.0f} s, and ended") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise MeasureError(f"{what} failed: {last}")
    return done.stdout


def peak_rss_bytes() -> int:
    """The peak resident size of this process.

    ``ru_maxrss`` won't do on Linux: it survives ``exec``, so a child starts with its parent's peak.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(slots=True)
class _Clocks:
    """Wall and processor time, as differences."""

    wall: float
    user: float
    system: float
    monotonic: float
    """One clock for all processes of a machine, other than ``wall``."""

    @classmethod
    def now(cls) -> _Clocks:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.perf_counter(), usage.ru_utime, usage.ru_stime, time.monotonic())

    def since(self, start: _Clocks) -> dict[str, float]:
        return {
            "wall_seconds": round(self.wall - start.wall, 6),
            "user_seconds": round(self.user - start.user, 6),
            "system_seconds": round(self.system - start.system, 6),
            "ended_at": round(self.monotonic, 6),
        }


def preload() -> None:
    """Imports all that a pull may need, and clears away what that leaves: else the first full collection of garbage,
    40 ms of it, falls into whichever pull comes first."""
    package = importlib.import_module("imgpull")
    for module in pkgutil.walk_packages(package.__path__, "imgpull."):
        if not module.name.startswith(("imgpull.cli", "imgpull.__main__")):
            importlib.import_module(module.name)
    for name in _PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:  # an extra that is not installed
            continue
    gc.collect()


def _run(spec: Spec) -> list[dict[str, Any]]:
    from benchmarks.baselines import arm_called
    from benchmarks.record import Counters, Timeline

    arm = arm_called(spec.arm)
    random.seed(spec.seed)
    counters = Counters()
    timeline = Timeline(counters) if spec.timeline else None
    with arm.open_store(spec.store, spec.durability) as store:
        before = store.database.transactions
        runners = [_Runner(arm, store, spec.references[n % len(spec.references)]) for n in range(spec.pulls)]
        for runner in runners:
            runner.sink = timeline.trace() if timeline else counters
        clocks = _race(runners, timeline)
        record = {
            "record": "run",
            "scenario": spec.scenario,
            "arm": spec.arm,
            "image": spec.image,
            "pulls": spec.pulls,
            "images": len(set(spec.references)),
            "repeat": spec.repeat,
            "seed": spec.seed,
            **clocks,
            "max_rss_bytes": peak_rss_bytes(),
            **counters.fields(),
            "transactions": store.database.transactions - before,
            **arm.tries(store, counters),
            "failed": sum(runner.image is None for runner in runners),
            "image_bytes": spec.image_bytes,
            "image_layers": spec.image_layers,
            "durability": spec.durability,
        }
        _check(runners)
        if spec.keep_rootfs and (image := runners[0].image) is not None:
            store.unpack(image, spec.keep_rootfs)
    records = [record]
    if timeline is not None:
        traces = [cast("PullTrace", runner.sink).fields() for runner in runners]
        facts = {key: record[key] for key in ("scenario", "arm", "image", "pulls", "repeat", "wall_seconds")}
        records.append({"record": "timeline", **facts, "traces": traces})
    return records


class _Runner:
    """One caller: a thread and a Puller of its own, as callers who don't know of each other have."""

    def __init__(self, arm: Arm, store: Store, reference: str) -> None:
        self.puller: Puller = arm.make_puller(store)
        self.reference = reference
        self.sink: Any = None
        self.image: Image | None = None
        self.error: Exception | None = None

    def pull(self, barrier: threading.Barrier, timeline: Timeline | None) -> None:
        barrier.wait()
        try:
            self.image = self.puller.pull(self.reference, progress=self.sink)
        except Exception as error:  # reported by _check: one caller's failure must not strand the others
            self.error = error
        if timeline is not None:
            self.sink.error = str(self.error or "")
            self.sink.close()


def _race(runners: Sequence[_Runner], timeline: Timeline | None) -> dict[str, float]:
    """Starts all callers at one instant and waits for the last."""
    barrier = threading.Barrier(len(runners) + 1, action=timeline.begin if timeline else None)
    threading.stack_size(_STACK_BYTES)
    threads = [
        threading.Thread(target=runner.pull, args=(barrier, timeline), name=f"caller-{number}")
        for number, runner in enumerate(runners)
    ]
    for thread in threads:
        thread.start()
    threading.stack_size(0)
    start = _Clocks.now()
    barrier.wait()
    for thread in threads:
        thread.join()
    clocks = _Clocks.now().since(start)
    for runner in runners:
        runner.puller.close()
    return clocks


def _check(runners: Sequence[_Runner]) -> None:
    """Every caller has its image, and callers of one reference have the same one: a fast wrong arm is no result."""
    for runner in runners:
        if runner.error is not None:
            raise runner.error
    for reference in {runner.reference for runner in runners}:
        chains = {str(r.image.chain_id) for r in runners if r.reference == reference and r.image is not None}
        if len(chains) != 1:
            raise MeasureError(f"callers of {reference} got {len(chains)} different root file systems")


def _main() -> None:
    spec = Spec.from_json(sys.stdin.read())
    preload()
    try:
        records = _run(spec)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for record in records:
        print(json.dumps(record))


if __name__ == "__main__":
    _main()
