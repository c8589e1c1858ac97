"""What is known of a pull while it runs, from its events; the plain lines that say so.

A :class:`Tracker` is the event sink of one pull. Events come from many threads, some at every block of a blob, so it
only counts; what is shown is read off it, by the bars a few times a second and by the plain lines when a blob or layer
reaches a state worth a line.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from imgpull.cli.output import Output, shown_size
from imgpull.events import (
    BlobAdvanced,
    BlobChanged,
    BlobRequested,
    BlobState,
    Event,
    LayerChanged,
    LayerState,
    LeftOut,
    Queued,
    Resolved,
)

if TYPE_CHECKING:
    from imgpull.store.images import Image

__all__ = ["Blob", "Display", "Lines", "Outcome", "Phase", "Silence", "Tracker", "short"]

Outcome = Literal["fetched", "joined", "exists", "skipped"]
Phase = Literal["waiting", "fetching", "joined", "unpacking", "done"]

_DIGITS = 12
"""Hex digits of a digest that docker shows, too."""


def short(digest: str) -> str:
    """The first digits of a digest, for people."""
    return digest.partition(":")[2][:_DIGITS]


@dataclass(slots=True)
class Blob:
    """One blob of the pull."""

    digest: str
    size_bytes: int = 0
    offset_bytes: int | None = None
    """How long the partial is; None while that is not known, as of a transfer that was joined under way."""
    fetched_bytes: int = 0
    """What came over the network, all attempts together."""
    state: BlobState = "waiting"
    joined: bool = False
    """Whether another caller's transfer was joined: its states are told to everyone on board."""
    layer_state: LayerState | None = None

    def change(self, state: BlobState, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        if state == "joined":
            self.joined = True
        else:
            self.state = state
        if state == "fetching":  # also said when the registry ignored our offset and begins from zero
            self.offset_bytes = 0

    def advance(self, advance_bytes: int) -> None:
        if self.offset_bytes is not None:
            self.offset_bytes += advance_bytes
        self.fetched_bytes += max(0, advance_bytes)

    @property
    def is_here(self) -> bool:
        """Whether the network has no more to do with it."""
        return self.state in ("fetched", "exists", "skipped")

    @property
    def phase(self) -> Phase:
        """What is going on now."""
        match self.layer_state:
            case "applied" | "exists":
                return "done"
            case "waiting" | "unpacking" as phase if self.is_here:
                return phase
        if self.is_here:
            return "done"
        if self.joined:
            return "joined"
        return "fetching" if self.state == "fetching" else "waiting"

    @property
    def outcome(self) -> Outcome:
        """How this pull came by the blob."""
        if self.state in ("fetching", "fetched"):
            return "joined" if self.joined else "fetched"
        if self.state == "skipped":
            return "skipped"
        return "joined" if self.joined and self.state == "waiting" else "exists"


class Tracker:
    """The event sink of the pull of ``reference``; ``tell`` is called, unlocked, after each change of a state."""

    def __init__(self, reference: str, tell: Callable[[Tracker, Event], None] | None = None) -> None:
        self.reference = reference
        self.digest = ""
        self.queued = False
        """Whether it waits for another pull of the same, as a rule in another process, whose progress can't be seen."""
        self._tell = tell
        # Guards _blobs and what is in them, and _left_out.
        self._lock = threading.Lock()
        self._blobs: dict[str, Blob] = {}
        self._left_out: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._note(event)
        if self._tell is not None and not isinstance(event, BlobAdvanced):
            self._tell(self, event)

    def _note(self, event: Event) -> None:
        self.queued = isinstance(event, Queued)
        match event:
            case BlobAdvanced():
                self._blob(event.digest).advance(event.advance_bytes)
            case BlobRequested():
                self._blob(event.digest).offset_bytes = event.offset_bytes
            case BlobChanged():
                self._blob(event.digest).change(event.state, event.size_bytes)
            case LayerChanged():
                self._blob(event.digest).layer_state = event.state
            case LeftOut():
                self._left_out.update(dict(event.what))
            case Resolved():
                self.digest = event.digest

    def _blob(self, digest: str) -> Blob:
        return self._blobs.setdefault(digest, Blob(digest))

    def blobs(self) -> list[Blob]:
        """Copies, in the order they were first heard of; without the manifests, which have no size yet."""
        with self._lock:
            return [replace(blob) for blob in self._blobs.values() if blob.size_bytes or blob.layer_state]

    def outcome(self, digest: str) -> Outcome:
        """How this pull came by the blob. Nothing heard of it: it was here before, nobody had to be asked."""
        with self._lock:
            blob = self._blobs.get(digest)
            return "exists" if blob is None else blob.outcome

    @property
    def left_out(self) -> str:
        """What the layers that this pull unpacked are without, in words; empty as a rule."""
        with self._lock:
            return ", ".join(_counted(count, what) for what, count in sorted(self._left_out.items()))

    @property
    def fetched_bytes(self) -> int:
        """What this pull itself had sent to it: not what it joined, nor the part an earlier pull left behind."""
        with self._lock:
            return sum(blob.fetched_bytes for blob in self._blobs.values() if blob.outcome == "fetched")


def _counted(count: int, what: str) -> str:
    """``what`` begins with a plural: ``devices (not root)``."""
    noun, _, rest = what.partition(" ")
    return f"{count} {noun.removesuffix('s') if count == 1 else noun} {rest}".rstrip()


class Display(Protocol):
    """Shows the pulls of one command while they run, between entering and leaving :meth:`running`."""

    holds_terminal: bool
    """Whether nothing else may be printed meanwhile."""

    def running(self) -> AbstractContextManager[object]: ...
    def track(self, reference: str) -> Tracker: ...
    def finished(self, tracker: Tracker, image: Image | None) -> None:
        """``image`` is None when the pull failed."""


class Silence:
    """Shows nothing."""

    holds_terminal = False

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def track(self, reference: str) -> Tracker:
        return Tracker(reference)

    def finished(self, tracker: Tracker, image: Image | None) -> None:
        return


class Lines(Silence):
    """One plain line, on stderr, for each thing that came to its end."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def track(self, reference: str) -> Tracker:
        return Tracker(reference, self._say)

    def _say(self, tracker: Tracker, event: Event) -> None:
        match event:
            case Resolved():
                self._output.note(f"{tracker.reference}: resolved to {event.digest}")
            case Queued():
                self._output.note(f"{tracker.reference}: waiting for another process")
            case BlobChanged() if event.size_bytes and event.state in ("fetched", "exists", "skipped"):
                outcome, size = tracker.outcome(event.digest), shown_size(event.size_bytes)
                self._output.note(f"{tracker.reference}: {short(event.digest)} {outcome} ({size})")
            case LayerChanged() if event.state == "applied":
                self._output.note(f"{tracker.reference}: {short(event.digest)} unpacked")
