"""The rounds of ``profile``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.floor.apply import headers
from benchmarks.floor.stages import tar_of
from benchmarks.layout import facts_of
from benchmarks.measure import MeasureError, Spec
from benchmarks.origin import ROOT
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
        setting = self._bench.setting
        return {
            "record": kind,
            "scenario": "profile",
            "image": setting.image,
            "repeat": repeat,
            "image_bytes": setting.image_bytes,
            "image_layers": setting.image_layers,
            "entries": self._entries,
            "durability": self._bench.durability,
        }


def _profiled(spec: Spec) -> Record:
    command = [sys.executable, "-m", "benchmarks.profiling.child"]
    done = subprocess.run(command, cwd=ROOT, input=spec.to_json(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise MeasureError(f"the profiled pull failed: {last}")
    result: Record = json.loads(done.stdout)
    return result
