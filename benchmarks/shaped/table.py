"""The table of ``shaped``: when the last byte came, when the image was ready, and what lies between."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import seconds, table, title

__all__ = ["shaped_table"]

Record = Mapping[str, Any]

BAR_SECONDS = 0.3
"""How long after the last byte imgpull may take on golang."""
_OURS = "imgpull"


def shaped_table(records: Sequence[Record]) -> str:
    """Rows in the order of the records; below them who failed and who was not here."""
    runs = [record for record in records if record["record"] == "run"]
    parts = []
    if runs:
        first = runs[0]
        line = f"1 pull through {first['latency_seconds'] * 1000:g} ms and {first['rate_bytes'] / 1e6:g} MB/s"
        parts.append(title(first, max(run["repeat"] for run in runs), "round", line))
        rows = []
        for arm in dict.fromkeys(run["arm"] for run in runs):
            of_arm = [run for run in runs if run["arm"] == arm]
            tails = [run["tail_seconds"] for run in of_arm]
            within = "" if not arm.startswith(_OURS) else "yes" if statistics.median(tails) <= BAR_SECONDS else "no"
            rows.append(
                (
                    arm,
                    seconds([run["last_byte_seconds"] for run in of_arm]),
                    seconds([run["wall_seconds"] for run in of_arm]),
                    seconds(tails),
                    f"{statistics.median(run['line_bytes'] for run in of_arm) / 1e6:.1f} MB",
                    within,
                )
            )
        headings = ("peer", "last byte", "ready", "tail", "through the line", f"tail ≤ {BAR_SECONDS} s")
        parts.append(table(headings, rows))
    failed = [one for one in records if one["record"] == "failure"]
    absent = [one for one in records if one["record"] == "absent"]
    parts.append("\n".join(f"failed, round {one['repeat']}: {one['arm']}: {one['error']}" for one in failed))
    parts.append("\n".join(f"not here: {one['arm']}: {one['reason']}" for one in absent))
    return "\n\n".join(part for part in parts if part)
