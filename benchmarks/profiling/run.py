"""The rounds of ``profile``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.floor.apply import headers
from benchmarks.floor.stages import tar_of
from benchmarks.layout import facts_of
from benchmarks.measure import Spec, said_by
from benchmarks.profiling.syscalls import syscalls_of
from benchmarks.scenarios import Bench

__all__ = ["Profile"]

Record = dict[str, Any]


class Profile:
    """One built image."""

    def __init__(self, bench: Bench, layout: Path) -> None:
        self._bench = bench
        facts = facts_of(layout)
        files = [layout / "blobs" / layer.digest.replace(":", "/") for layer in facts.layer_facts]
        self._entries = sum(1 for file in files for _ in headers(tar_of(str(file))))

    def run(self, rounds: int, emit: Callable[[Record], None]) -> None:
        """``rounds`` pulls with probes, then, where strace is here, one that is traced. Raises MeasureError."""
        for repeat in range(1, rounds + 1):
            self._bench.volume.wipe()
            emit({**self._common("profile", repeat), **_profiled(self._spec(repeat))})
        self._bench.volume.wipe()
        emit({**self._common("syscalls", 1), "calls": syscalls_of(self._spec(1))})

    def _spec(self, repeat: int) -> Spec:
        return self._bench.spec("profile", "suppression", 1, repeat)

    def _common(self, kind: str, repeat: int) -> Record:
        return {
            "record": kind,
            "scenario": "profile",
            "repeat": repeat,
            **self._bench.setting.fields(),
            "entries": self._entries,
            "durability": self._bench.durability,
        }


def _profiled(spec: Spec) -> Record:
    result: Record = json.loads(said_by("benchmarks.profiling.child", spec.to_json(), "the profiled pull"))
    return result
