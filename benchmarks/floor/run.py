"""The rounds of ``floor``, and what is derived from one: each stage once, and imgpull's library call among them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.floor.stages import STAGES, Order, inflater_name
from benchmarks.layout import facts_of
from benchmarks.measure import said_by
from benchmarks.scenarios import Bench, interleaved

__all__ = ["Floor", "floor_of"]

Record = dict[str, Any]

_CORES = 2
"""More would not help one pull: a layer is one chain, and two layers side by side fill two cores."""
_LIBRARY = "imgpull-library"


def floor_of(stages: Mapping[str, Mapping[str, Any]], cores: int) -> Record:
    """The floor by one round's ``stages``, by name, each with its ``layers``. It is the larger of two bounds: all the
    processor time on min(``cores``, 2) cores, and the longest layer's own chain, since a layer is inflated in order."""
    chains: dict[str, float] = {}
    for stage in stages.values():
        for layer in stage["layers"]:
            chains[layer["digest"]] = chains.get(layer["digest"], 0.0) + layer["cpu_seconds"]
    cpu_seconds, chain_seconds = sum(chains.values()), max(chains.values(), default=0.0)
    used = max(1, min(cores, _CORES))
    return {
        "cpu_seconds": round(cpu_seconds, 6),
        "chain_seconds": round(chain_seconds, 6),
        "cores": used,
        "floor_seconds": round(max(cpu_seconds / used, chain_seconds), 6),
        "bound": "cpu" if cpu_seconds / used >= chain_seconds else "chain",
    }


class Floor:
    """One built image."""

    def __init__(self, bench: Bench, layout: Path) -> None:
        self._bench = bench
        facts = facts_of(layout)
        blobs = [(digest, str(layout.resolve() / "blobs" / digest.replace(":", "/"))) for digest in facts.blob_sizes]
        self._blobs = tuple(blobs)
        layers = dict.fromkeys(layer.digest for layer in facts.layer_facts)
        self._layers = tuple(blob for blob in blobs if blob[0] in layers)
        self._repository = facts.name.rpartition(":")[0]

    def run(self, rounds: int, emit: Callable[[Record], None]) -> None:
        """Interleaved: each round begins with another stage. Raises MeasureError."""
        of_round: dict[str, Record] = {}
        for repeat, name in interleaved([*STAGES, _LIBRARY], rounds):
            record = self._library(repeat) if name == _LIBRARY else self._stage(name, repeat)
            emit(record)
            of_round[name] = record
            if len(of_round) == len(STAGES) + 1:
                emit(self._derived(of_round, repeat))
                of_round = {}

    def _derived(self, of_round: Mapping[str, Record], repeat: int) -> Record:
        stages = {name: of_round[name] for name in STAGES}
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        derived = floor_of(stages, cores)
        pull = of_round[_LIBRARY]
        return {
            **self._common("floor", repeat),
            **derived,
            "imgpull_wall_seconds": pull["wall_seconds"],
            "imgpull_cpu_seconds": round(pull["user_seconds"] + pull["system_seconds"], 6),
            "ratio": round(pull["wall_seconds"] / derived["floor_seconds"], 4),
            "durability": self._bench.durability,
        }

    def _library(self, repeat: int) -> Record:
        return {**self._bench.run(self._bench.spec("floor", "suppression", 1, repeat))[0], "arm": _LIBRARY}

    def _common(self, kind: str, repeat: int) -> Record:
        return {"record": kind, "scenario": "floor", "repeat": repeat, **self._bench.setting.fields()}

    def _stage(self, stage: str, repeat: int) -> Record:
        directory = self._bench.volume.wipe()
        directory.mkdir()
        receiving = stage == "receive"
        order = Order(
            stage,
            self._blobs if receiving else self._layers,
            self._bench.served.address if receiving else "",
            self._repository,
            str(directory),
        )
        result = _performed(order)
        layers = result["layers"]
        sums = {key: round(sum(one[key] for one in layers), 6) for key in ("cpu_seconds", "wall_seconds", "bytes")}
        named = {"inflater": inflater_name()} if stage == "inflate" else {}
        return {**self._common("stage", repeat), "stage": stage, **sums, **named, **result}


def _performed(order: Order) -> Record:
    result: Record = json.loads(said_by("benchmarks.floor.stages", order.to_json(), f"the stage {order.stage}"))
    return result
