"""The table of ``floor``: stage by stage, the two bounds, and imgpull beside them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.floor.stages import STAGES
from benchmarks.report import factor, seconds, table, title

__all__ = ["floor_table"]

Record = Mapping[str, Any]

_WORDS = {
    "receive": "receive and write the blobs",
    "digest": "sha256 of the blobs",
    "inflate": "inflate",
    "digest-tar": "sha256 of the tars",
    "apply": "apply the tars",
}


def floor_table(records: Sequence[Record]) -> str:
    """Medians of the rounds; the ratio is of each round, then its median. All records are of one image."""
    floors = [record for record in records if record["record"] == "floor"]
    stages = [record for record in records if record["record"] == "stage"]
    rows = [_row(name, [one for one in stages if one["stage"] == name]) for name in STAGES]
    floor = floors[0]
    by_cpu = [one["cpu_seconds"] / one["cores"] for one in floors]
    bounds = [
        (f"all CPU ÷ {floor['cores']} cores", seconds(by_cpu)),
        ("the longest layer's chain", seconds([one["chain_seconds"] for one in floors])),
        ("floor, the larger", seconds([one["floor_seconds"] for one in floors])),
        (f"imgpull, library call, durability {floor['durability']}", _pull(floors)),
        ("imgpull ÷ floor", factor([one["ratio"] for one in floors])),
    ]
    return "\n\n".join(
        (
            f"{title(floor, len(floors), 'round')} · nothing of imgpull's in the floor",
            table(("stage", "CPU", "wall", "MB", "MB/s of CPU"), rows),
            table(("bound", "seconds"), bounds),
        )
    )


def _pull(floors: Sequence[Record]) -> str:
    cpu = statistics.median(one["imgpull_cpu_seconds"] for one in floors)
    return f"{seconds([one['imgpull_wall_seconds'] for one in floors])}, CPU {cpu:.2f} s"


def _row(name: str, runs: Sequence[Record]) -> tuple[str, ...]:
    words = _WORDS[name]
    if "inflater" in runs[0]:
        words = f"{words} ({runs[0]['inflater']})"
    if runs[0]["entries"]:
        words = f"{words} ({runs[0]['entries']} entries)"
    cpu = [run["cpu_seconds"] for run in runs]
    size = runs[0]["bytes"] / 1e6
    rate = size / statistics.median(cpu) if statistics.median(cpu) else 0.0
    return words, seconds(cpu), seconds([run["wall_seconds"] for run in runs]), f"{size:.1f}", f"{rate:.0f}"
