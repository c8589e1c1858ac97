"""What happened during a pull, as frozen values, and the protocol of whoever wants to know.

Events are facts in the past tense. They are sent by the thread that did the work, so a sink must be quick and
thread-safe; an exception it raises is logged and goes no further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "BlobAdvanced",
    "BlobChanged",
    "BlobRequested",
    "BlobState",
    "Event",
    "EventSink",
    "LayerChanged",
    "LayerState",
    "LeftOut",
    "Queued",
    "Resolved",
    "Woken",
    "discard",
]

BlobState = Literal["waiting", "fetching", "fetched", "joined", "exists", "skipped"]
LayerState = Literal["waiting", "unpacking", "applied", "exists"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A reference became a digest."""

    reference: str
    digest: str


@dataclass(frozen=True, slots=True)
class BlobRequested:
    """One GET for a blob or manifest went out; ``offset_bytes`` > 0 when it resumes."""

    digest: str
    registry: str
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class BlobChanged:
    """A blob is waiting for its slot, fetching, fetched, joined (another caller's transfer), exists or skipped."""

    digest: str
    size_bytes: int
    state: BlobState


@dataclass(frozen=True, slots=True)
class BlobAdvanced:
    """``advance_bytes`` more arrived; negative when a transfer starts again and takes back what it had reported."""

    digest: str
    advance_bytes: int


@dataclass(frozen=True, slots=True)
class LayerChanged:
    """A layer's snapshot is waiting, unpacking, applied by this pull, or exists."""

    digest: str
    chain_id: str
    state: LayerState


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A layer was applied without some of its owners, devices or attributes; ``what``: by kind and reason, how many."""

    digest: str
    chain_id: str
    what: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Queued:
    """A pull waits for its turn at ``key``: another process, as a rule, is resolving or pulling the same."""

    key: str


@dataclass(frozen=True, slots=True)
class Woken:
    """A waiter woke up. ``found_held``: for nothing, the key was still held. ``slept_seconds``: spent in a back-off
    sleep, not in a wait that the holder ends; zero under suppression."""

    key: str
    found_held: bool
    slept_seconds: float


Event = Resolved | BlobRequested | BlobChanged | BlobAdvanced | LayerChanged | LeftOut | Queued | Woken
EventSink = Callable[[Event], None]


def discard(event: Event) -> None:
    """The sink of a caller who does not want to know."""
