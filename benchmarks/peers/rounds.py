"""The runs: every peer once in each round, each on an empty volume, and what came of it as records."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.layout import LayerFacts
from benchmarks.origin import Origin
from benchmarks.peers.cost import cost_of
from benchmarks.peers.peer import Peer, PeerError, Place
from benchmarks.scenarios import Setting, interleaved
from benchmarks.volume import Volume

__all__ = ["Rounds", "versions_of"]

Record = dict[str, Any]

_VERSION_SECONDS = 10.0


class Rounds:
    """One image, one registry, one volume, some peers.

    ``timeout_seconds`` bounds each pull. A peer that fails leaves a record of kind ``failure`` and takes part in the
    next round again.
    """

    def __init__(
        self,
        setting: Setting,
        served: Origin,
        volume: Volume,
        layers: tuple[LayerFacts, ...],
        timeout_seconds: float,
    ) -> None:
        self._setting = setting
        self._served = served
        self._volume = volume
        self._layers = layers
        self._timeout_seconds = timeout_seconds

    def run(self, peers: Sequence[Peer], pulls: int, rounds: int, emit: Callable[[Record], None]) -> None:
        """Tells of those that can't take part, then runs the others, interleaved."""
        here: dict[str, Peer] = {}
        for peer in peers:
            reason = peer.absent(self._place(pulls))
            if reason:
                emit({"record": "absent", "arm": peer.name, "reason": reason})
            else:
                here[peer.name] = peer
        for repeat, name in interleaved(list(here), rounds) if here else ():
            emit(self._one(here[name], pulls, repeat))

    def _place(self, pulls: int) -> Place:
        return Place(self._volume.store, self._served.references[0], pulls, self._layers)

    def _one(self, peer: Peer, pulls: int, repeat: int) -> Record:
        self._volume.wipe()
        place = self._place(pulls)
        place.directory.mkdir()
        record: Record = {
            "record": "run",
            "scenario": "peers",
            "arm": peer.name,
            "image": self._setting.image,
            "pulls": pulls,
            "repeat": repeat,
            "image_bytes": self._setting.image_bytes,
            "image_layers": self._setting.image_layers,
            "note": peer.note,
        }
        before = self._served.served()
        try:
            with peer.ready(place) as ready:
                record.update(cost_of(ready, self._timeout_seconds))
        except (PeerError, OSError) as error:
            return {**record, "record": "failure", "error": str(error)}
        after = self._served.served()
        if before is not None and after is not None:
            record.update(blob_gets=after[0] - before[0], bytes_fetched=after[1] - before[1])
        return record


def versions_of(peers: Iterable[Peer]) -> dict[str, str]:
    """What each program that is here says of its version, in one line."""
    programs = dict.fromkeys(program for peer in peers for program in peer.programs)
    return {program: line for program in programs if (line := _version(program))}


def _version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False, timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(_lines(done.stdout), "")


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())
