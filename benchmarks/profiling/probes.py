"""Clocks around functions of imgpull, put there from the outside, and what each thread spent.

A sampling thread would need the interpreter's lock to look, so it would mostly see those who have just let go of it.
These clocks run in the thread that works: wall, and the thread's own processor time. What a probed function calls that
is probed itself is taken off, so that the rows add up. A call costs some 2 µs; only what is called by block, layer or
transaction is probed, never what is called by the entry.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["DETACHED", "POINTS", "Point", "Probes", "missing_points"]

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Point:
    """``attribute`` of ``module``, ``Class.method`` or a function, counted as ``stage``."""

    stage: str
    module: str
    attribute: str
    makes: tuple[str, ...] = ()
    """For what makes an object of C: the methods of what it returns to be timed, instead of the making."""


DETACHED = ("inflate", "digest")
"""Stages that are C code which lets go of the interpreter's lock for all that counts."""

POINTS: Sequence[Point] = (
    Point("receive", "imgpull.registry.blob", "BlobResponse.readinto"),
    Point("fetch, the rest", "imgpull.fetch.fetcher", "Fetcher._transfer"),
    Point("write the blob", "imgpull.store.blob_writer", "Writer.write"),
    Point("read it back", "imgpull.store.following", "Follower.readinto"),
    Point("wait for bytes", "imgpull.store.following", "Follower._wait"),
    Point("digest", "imgpull.oci.digest", "Digest.hasher", ("update",)),
    Point("inflate", "imgpull.unpack.decompress", "inflater", ("decompress",)),
    Point("inflate", "imgpull.unpack.decompress", "_zstd_frame", ("decompress",)),
    Point("parse and apply", "imgpull.unpack.applier", "Applier.make"),
    Point("settle", "imgpull.unpack.applier", "Applier.settle"),
    Point("wait for the parent", "imgpull.unpack.step", "Step._await_parent"),
    Point("commit the snapshot", "imgpull.unpack.step", "Step._commit"),
    Point("commit the blob", "imgpull.store.blob_writer", "Writer.commit"),
    Point("sync", "imgpull.store.durability", "FullSync.data"),
    Point("sync", "imgpull.store.durability", "FullSync.directory"),
    Point("sync", "imgpull.store.durability", "FullSync.filesystem"),
    Point("metadata, waited for", "imgpull.store.database", "Database.write"),
    Point("metadata, read", "imgpull.store.database", "Database.query"),
    Point("metadata, written", "imgpull.store.database.writer", "GroupWriter._commit"),
)


def _found(point: Point) -> tuple[Any, str, Any] | None:
    """Owner, name and value, or None where imgpull has no such thing (any more)."""
    try:
        owner: Any = importlib.import_module(point.module)
        *classes, name = point.attribute.split(".")
        for part in classes:
            owner = getattr(owner, part)
        return owner, name, vars(owner)[name]
    except (ImportError, AttributeError, KeyError):
        return None


def missing_points() -> list[str]:
    """Points that lead nowhere: what they stood for is counted with what calls it."""
    return [f"{point.module}:{point.attribute}" for point in POINTS if _found(point) is None]


class _Made:
    """An object of C with a clock around some of its methods."""

    def __init__(self, made: Any, probes: Probes, point: Point) -> None:
        self._made = made
        for name in point.makes:
            setattr(self, name, probes.timed(point.stage, getattr(made, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)


class Probes:
    """The clocks of one process, and what they have counted. All times are in seconds."""

    def __init__(self, wall: Clock = time.perf_counter, cpu: Clock = time.thread_time) -> None:
        self._wall = wall
        self._cpu = cpu
        self._lock = threading.Lock()  # guards all stages and threads
        self._own = threading.local()
        self.stages: dict[str, list[float]] = {}
        """Calls, wall and processor time by stage, less that of probed functions within."""
        self.threads: list[tuple[str, float, float]] = []
        """Name, wall and processor time of each thread that has ended."""

    @contextmanager
    def installed(self, points: Sequence[Point] = POINTS) -> Iterator[None]:
        """Around the points, and around every thread started meanwhile, for the block."""
        undo: list[tuple[Any, str, Any]] = []
        try:
            for point in points:
                if (found := _found(point)) is None:
                    continue
                owner, name, value = found
                undo.append(found)
                setattr(owner, name, self._making(point, value) if point.makes else self.timed(point.stage, value))
            undo.append((threading.Thread, "run", threading.Thread.run))
            setattr(threading.Thread, "run", self._running(threading.Thread.run))  # noqa: B010  # mypy: a method
            yield
        finally:
            for owner, name, value in reversed(undo):
                setattr(owner, name, value)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with a clock."""

        def timed(*arguments: Any, **named: Any) -> Any:
            outer = getattr(self._own, "within", None)
            within = self._own.within = [0.0, 0.0]
            wall, cpu = self._wall(), self._cpu()
            try:
                return function(*arguments, **named)
            finally:
                cpu, wall = self._cpu() - cpu, self._wall() - wall
                self._own.within = outer
                if outer is not None:
                    outer[0] += wall
                    outer[1] += cpu
                self._count(stage, wall - within[0], cpu - within[1])

        return timed

    def _count(self, stage: str, wall: float, cpu: float) -> None:
        with self._lock:
            sums = self.stages.setdefault(stage, [0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += wall
            sums[2] += cpu

    def _making(self, point: Point, make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **named: _Made(make(*arguments, **named), self, point)

    def _running(self, run: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
        def running(thread: threading.Thread) -> None:
            wall, cpu = self._wall(), self._cpu()
            try:
                run(thread)
            finally:
                spent = (thread.name, self._wall() - wall, self._cpu() - cpu)
                with self._lock:
                    self.threads.append(spent)

        return running
