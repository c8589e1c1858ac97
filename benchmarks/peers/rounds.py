"""The runs: every peer once in each round, each on an empty volume, and what came of it as records."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.layout import LayerFacts
from benchmarks.origin import Origin
from benchmarks.peers.cost import cost_of
from benchmarks.peers.peer import Peer, PeerError, Place
from benchmarks.peers.single import Imgpull
from benchmarks.processes import import_seconds
from benchmarks.scenarios import Setting, interleaved
from benchmarks.volume import Volume, VolumeError, drop_caches

__all__ = ["Conditions", "Rounds", "versions_of"]

Record = dict[str, Any]

_VERSION_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for every run. ``timeout_seconds`` bounds each pull; ``cold`` drops the page cache before it,
    the registry's files and the programs' own included."""

    timeout_seconds: float = 600.0
    cold: bool = False


class Rounds:
    """One image, one registry, one volume, some peers.

    A peer that fails leaves a record of kind ``failure`` and takes part in the next round again.
    """

    def __init__(
        self,
        setting: Setting,
        served: Origin,
        volume: Volume,
        layers: tuple[LayerFacts, ...],
        conditions: Conditions | None = None,
    ) -> None:
        self._setting = setting
        self._served = served
        self._volume = volume
        self._layers = layers
        self._conditions = conditions or Conditions()

    def run(self, peers: Sequence[Peer], pulls: Sequence[int], rounds: int, emit: Callable[[Record], None]) -> None:
        """Tells of those that can't take part, then runs the others, interleaved. Raises VolumeError.

        Where several imgpull processes take part, each round also has what they are compared with: one pull, and the
        import of imgpull alone.
        """
        here: dict[str, tuple[Peer, int]] = {}
        for count in pulls:
            for peer in peers:
                if reason := peer.absent(self._place(count)):
                    emit({"record": "absent", "arm": peer.name, "pulls": count, "reason": reason})
                else:
                    here[f"{peer.name} × {count}"] = peer, count
        if max(pulls) > 1:
            for peer, _ in list(here.values()):
                if isinstance(peer, Imgpull):
                    here.setdefault(f"{peer.name} × 1", (peer, 1))
        processes = any(isinstance(peer, Imgpull) and count > 1 for peer, count in here.values())
        told = 0
        for repeat, name in interleaved(list(here), rounds) if here else ():
            if processes and repeat > told:
                told = repeat
                emit({"record": "import", "repeat": repeat, "wall_seconds": round(import_seconds(), 6)})
            peer, count = here[name]
            record = self._one(peer, count, repeat)
            emit(record if count in pulls else {**record, "scenario": "reference"})

    def _place(self, pulls: int) -> Place:
        return Place(self._volume.store, self._served.references[0], pulls, self._layers, self._setting.image)

    def _one(self, peer: Peer, pulls: int, repeat: int) -> Record:
        self._volume.wipe()
        place = self._place(pulls)
        place.directory.mkdir()
        record: Record = {
            "record": "run",
            "scenario": "peers",
            "arm": peer.name,
            "pulls": pulls,
            "repeat": repeat,
            **self._setting.fields(),
            "cold": self._conditions.cold,
            "note": peer.note,
        }
        before = self._served.served()
        try:
            with peer.ready(place) as ready:
                if self._conditions.cold and not drop_caches():
                    raise VolumeError("only root may drop the page cache")
                record.update(cost_of(ready, self._conditions.timeout_seconds))
        except (PeerError, OSError) as error:
            return {**record, "record": "failure", "error": str(error)}
        after = self._served.served()
        if before is not None and after is not None:
            record.update(after.since(before))
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
