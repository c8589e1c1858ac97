"""The table of peers: what each took, and how many times what imgpull took in the same round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.report import counts, factor, seconds, table

__all__ = ["peers_table", "processor", "ratios", "real"]

Record = Mapping[str, Any]


Cost = Callable[[Record], float]


def real(run: Record) -> float:
    return float(run["wall_seconds"])


def processor(run: Record) -> float:
    """User and system seconds together: what a busy machine stretches least."""
    return float(run["user_seconds"] + run["system_seconds"])


def ratios(runs: Sequence[Record], base: Sequence[Record], cost: Cost = real) -> list[float]:
    """The cost over that of ``base`` in the same round; rounds that lack one of the two are left out. Within a
    round both met the same machine, however busy; medians of different minutes did not."""
    of_round = {run["repeat"]: cost(run) for run in base}
    return [cost(run) / of_round[run["repeat"]] for run in runs if of_round.get(run["repeat"])]


def peers_table(records: Sequence[Record]) -> str:
    """Rows in the order of the records; below them the notes, who failed, and who was not here."""
    runs = [record for record in records if record["record"] == "run"]
    failures = [record for record in records if record["record"] == "failure"]
    parts = []
    if runs:
        arms = list(dict.fromkeys(run["arm"] for run in runs))
        base = arms[0] if "imgpull" not in arms else "imgpull"
        chosen = {arm: [run for run in runs if run["arm"] == arm] for arm in arms}
        rows = [_row(arm, chosen[arm], chosen[base]) for arm in arms]
        headings = ("peer", "real", f"÷ {base}", "user", "sys", f"user+sys ÷ {base}", "largest process", "fetched")
        parts += [_title(runs), table(headings, rows)]
        parts.append(_lines(f"{arm}: {runs_of[0]['note']}" for arm, runs_of in chosen.items() if runs_of[0]["note"]))
    parts.append(_lines(f"failed, round {one['repeat']}: {one['arm']}: {one['error']}" for one in failures))
    absent = [record for record in records if record["record"] == "absent"]
    parts.append(_lines(f"not here: {one['arm']}: {one['reason']}" for one in absent))
    return "\n\n".join(part for part in parts if part)


def _lines(lines: Any) -> str:
    return "\n".join(lines)


def _title(runs: Sequence[Record]) -> str:
    first = runs[0]
    size = f", {first['image_layers']} layers, {first['image_bytes'] / 1e6:.1f} MB" if first["image_bytes"] else ""
    rounds = max(run["repeat"] for run in runs)
    pulls = "1 pull" if first["pulls"] == 1 else f"{first['pulls']} pulls at once"
    spread = "1 round" if rounds == 1 else f"{rounds} rounds: median (least–most)"
    return f"{first['image']}{size} · {pulls} into an empty store · {spread}"


def _row(arm: str, runs: Sequence[Record], base: Sequence[Record]) -> tuple[str, ...]:
    return (
        arm,
        seconds([run["wall_seconds"] for run in runs]),
        factor(ratios(runs, base)),
        seconds([run["user_seconds"] for run in runs]),
        seconds([run["system_seconds"] for run in runs]),
        factor(ratios(runs, base, processor)),
        counts([run["max_rss_bytes"] / 1e6 for run in runs], " MB"),
        counts([run["bytes_fetched"] / 1e6 for run in runs], " MB") if "bytes_fetched" in runs[0] else "–",
    )
