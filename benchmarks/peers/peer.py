"""What a peer is to the runs: whether it is here, and which commands are one pull."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.layout import LayerFacts

__all__ = ["Command", "Peer", "PeerError", "Place", "Ready", "missing_program"]

Command = Sequence[str]
"""A program and its arguments."""


class PeerError(Exception):
    """A peer did not come up, did not pull, or took too long; the message is its own last line where it left one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where and what one run pulls."""

    directory: Path
    """Empty, on the measuring volume. A peer keeps all its state below it."""
    reference: str
    pulls: int = 1
    layers: tuple[LayerFacts, ...] = ()
    """Lowest first; none where the image is in a registry that somebody else runs."""
    image: str = ""
    """Its name, for messages."""


@dataclass(frozen=True, slots=True)
class Ready:
    """All is up; what follows is measured."""

    lanes: Sequence[Sequence[Command]]
    """Lanes start together; the commands of one lane run one after another."""
    daemon: int | None = None
    """The process that works for the commands: its processor time and memory are counted with theirs."""
    environment: Mapping[str, str] = field(default_factory=dict)
    own_cost: Callable[[float], Mapping[str, Any]] | None = None
    """For who takes the time himself, being no command: makes the pull within so many seconds and returns the record's
    fields of time and memory. Raises PeerError. There are no lanes then."""


class Peer(Protocol):
    """A tool that pulls an image. It has no state: what a run needs is in its :class:`Place`."""

    @property
    def name(self) -> str: ...

    @property
    def programs(self) -> tuple[str, ...]:
        """What it runs, the one that gives it its name first."""

    @property
    def note(self) -> str:
        """What it does less, or more, than pull and unpack; empty for an equal."""

    def absent(self, place: Place) -> str:
        """Why it can't take part here; empty when it can."""

    def ready(self, place: Place) -> AbstractContextManager[Ready]:
        """Brings the peer to where it can pull, and takes it down at the end of the block. Raises PeerError."""


def missing_program(programs: Iterable[str]) -> str:
    """``podman is not on PATH``; empty when all are."""
    missing = [program for program in programs if shutil.which(program) is None]
    return f"{' and '.join(missing)} not on PATH" if missing else ""
