"""What a run writes down: counters that events are counted into, and the timeline of who did what, when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgpull.events import BlobAdvanced, BlobChanged, BlobRequested, LayerChanged, Woken

if TYPE_CHECKING:
    from imgpull.events import Event

__all__ = ["Counters", "PullTrace", "Span", "Timeline"]


class Counters:
    """An event sink that counts. One object is given to every pull of a run: an event that goes to many callers
    reaches one sink once, so what it counts is work that was done and not callers who were told of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the counts; sinks are called from every worker thread
        self.blob_gets = 0
        self.bytes_fetched = 0
        self.layers_applied = 0
        self.wakeups = 0
        self.wasted_wakeups = 0
        self.slept_seconds = 0.0
        self.refused = 0
        """Times a writer was refused because another held its ref: each is followed by a back-off sleep."""

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case BlobAdvanced():
                    self.bytes_fetched += max(0, event.advance_bytes)  # a restart's take-back was still transferred
                case BlobRequested():
                    self.blob_gets += 1
                case LayerChanged(state="applied"):
                    self.layers_applied += 1
                case Woken():
                    self.wakeups += 1
                    self.wasted_wakeups += event.found_held
                    self.slept_seconds += event.slept_seconds
                    self.refused += event.slept_seconds > 0

    def fields(self) -> dict[str, Any]:
        """The record's fields."""
        return {
            "blob_gets": self.blob_gets,
            "bytes_fetched": self.bytes_fetched,
            "layers_applied": self.layers_applied,
            "wakeups": self.wakeups,
            "wasted_wakeups": self.wasted_wakeups,
            "slept_seconds": round(self.slept_seconds, 6),
        }


@dataclass(frozen=True, slots=True)
class Span:
    """One pull did ``kind`` (``fetching`` ``unpacking`` ``asleep``) to ``what`` (a short digest), in seconds since
    the run began."""

    kind: str
    what: str
    start_seconds: float
    end_seconds: float


class Timeline:
    """Who did what, when. Each pull has a sink of its own here; an event that several are told of belongs to the one
    who was told first, which is the pull that leads the work; the others are seen to wait."""

    def __init__(self, counters: Counters, clock: Callable[[], float] = time.perf_counter) -> None:
        self._counters = counters
        self._clock = clock
        self._lock = threading.Lock()  # guards _told and every trace's spans
        # Events by identity: two equal events are two facts. They are kept, so that no identity is used again.
        self._told: dict[int, Event] = {}
        self._began = clock()

    def begin(self) -> None:
        """The barrier has fallen: seconds count from here."""
        self._began = self._clock()

    def now(self) -> float:
        return self._clock() - self._began

    def trace(self) -> PullTrace:
        """The sink of one more pull."""
        return PullTrace(self)

    def first_told(self, event: Event) -> bool:
        with self._lock:
            if id(event) in self._told:
                return False
            self._told[id(event)] = event
        self._counters(event)
        return True


class PullTrace:
    """The sink of one pull."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._open: dict[tuple[str, str], float] = {}
        self.spans: list[Span] = []
        self.start_seconds = 0.0
        self.end_seconds = 0.0
        self.error = ""

    def __call__(self, event: Event) -> None:
        if not self._timeline.first_told(event):
            return
        now = self._timeline.now()
        match event:
            case BlobChanged():
                self._change("fetching", _short(event.digest), event.state == "fetching", now)
            case LayerChanged():
                self._change("unpacking", _short(event.digest), event.state == "unpacking", now)
            case Woken() if event.slept_seconds > 0:
                self.spans.append(Span("asleep", event.key, now - event.slept_seconds, now))

    def close(self) -> None:
        """The pull has ended; whatever still seemed to go on ended with it."""
        self.end_seconds = self._timeline.now()
        for (kind, what), start in list(self._open.items()):
            self.spans.append(Span(kind, what, start, self.end_seconds))
        self._open.clear()

    def fields(self) -> dict[str, Any]:
        return {
            "start_seconds": round(self.start_seconds, 6),
            "end_seconds": round(self.end_seconds, 6),
            "error": self.error,
            "spans": [
                [span.kind, span.what, round(span.start_seconds, 6), round(span.end_seconds, 6)] for span in self.spans
            ],
        }

    def _change(self, kind: str, what: str, begins: bool, now: float) -> None:
        start = self._open.pop((kind, what), None)
        if start is not None:
            self.spans.append(Span(kind, what, start, now))
        if begins:
            self._open[kind, what] = now


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12]
