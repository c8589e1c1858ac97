"""The seed's table (real, user, sys) and, under it, the causes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["comparison", "counts", "factor", "growth", "header_line", "read_records", "seconds", "table", "title"]

Record = Mapping[str, Any]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a results file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def seconds(values: Sequence[float]) -> str:
    """``median (least–most)``; the median alone when there is one value."""
    middle = f"{statistics.median(values):.2f} s"
    return middle if len(values) < 2 else f"{middle} ({min(values):.2f}–{max(values):.2f})"


def factor(factors: Sequence[float]) -> str:
    """``median (least–most)`` of ratios; a dash where there is none."""
    if not factors:
        return "–"
    middle = f"{statistics.median(factors):.2f}"
    return middle if len(factors) < 2 else f"{middle} ({min(factors):.2f}–{max(factors):.2f})"


def title(run: Record, repeats: int, word: str, what: str = "") -> str:
    """``redis, 6 layers, 47.0 MB · what · 5 rounds: median (least–most)``."""
    size = f", {run['image_layers']} layers, {run['image_bytes'] / 1e6:.1f} MB" if run["image_bytes"] else ""
    spread = f"1 {word}" if repeats == 1 else f"{repeats} {word}s: median (least–most)"
    return " · ".join(part for part in (f"{run['image']}{size}", what, spread) if part)


def counts(values: Sequence[float], unit: str = "") -> str:
    """The median of counts, with the spread where there is one."""
    middle, least, most = (_rounded(value) for value in (statistics.median(values), min(values), max(values)))
    spread = "" if least == most else f" ({least}–{most})"
    return f"{middle}{unit}{spread}"


def _rounded(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need be: the first to the left, the others to the right."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]

    def line_of(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join((first, *rest)).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([line_of(lines[0]), rule, *(line_of(line) for line in lines[1:])])


def header_line(environment: Record) -> str:
    """Where it was measured, in two lines."""
    sha = "with" if environment["sha_ni"] else "without"
    return (
        f"{environment['python']} on {environment['cpus']} × {environment['processor'] or environment['machine']}"
        f" ({sha} SHA-NI), {environment['kernel']}\n"
        f"stores: {environment['filesystem']}, durability {environment['durability']} · from {environment['origin']}"
    )


def comparison(records: Sequence[Record]) -> str:
    """Both tables for the runs among ``records``, all of one image and one number of pulls."""
    runs = [record for record in records if record["record"] == "run"]
    arms = {arm: [run for run in runs if run["arm"] == arm] for arm in dict.fromkeys(run["arm"] for run in runs)}
    first = runs[0]
    repeats = max(len(chosen) for chosen in arms.values())
    what = "processes" if first["scenario"] == "processes" else "pulls"
    pulled = f"{first['pulls']} {what} at once into an empty store"
    parts = [title(first, repeats, "repeat", pulled), _times(arms)]
    if "blob_gets" in first:
        parts.append(_causes(arms))
    return "\n\n".join(parts)


def _times(arms: Mapping[str, Sequence[Record]]) -> str:
    fastest = statistics.median([run["wall_seconds"] for run in next(iter(arms.values()))])
    first = next(iter(arms))
    rows = []
    for arm, runs in arms.items():
        wall = [run["wall_seconds"] for run in runs]
        ratio = statistics.median(wall) / fastest if fastest else 0.0
        rows.append(
            (
                arm,
                seconds(wall),
                seconds([run["user_seconds"] for run in runs]),
                seconds([run["system_seconds"] for run in runs]),
                f"{ratio:.1f} ×",
                counts([run["max_rss_bytes"] / 1e6 for run in runs], " MB"),
            )
        )
    return table(("arm", "real", "user", "sys", f"real ÷ {first}", "peak memory"), rows)


def _twice(run: Record) -> float:
    return float(max(0, run["bytes_fetched"] - run["image_bytes"])) / 1e6


def _slept(run: Record) -> float:
    return float(run["slept_seconds"] + run.get("slept_in_transaction_seconds", 0.0))


_CAUSES: Sequence[tuple[str, str, str, Callable[[Record], float]]] = (
    ("GETs", "blob_gets", "", lambda run: run["blob_gets"]),
    ("HEADs of manifests", "manifest_heads", "", lambda run: run["manifest_heads"]),
    ("bytes fetched twice", "bytes_fetched", " MB", _twice),
    ("layers applied twice", "layers_applied", "", lambda run: max(0, run["layers_applied"] - run["image_layers"])),
    ("wake-ups", "wakeups", "", lambda run: run["wakeups"]),
    ("… that found the key held", "wasted_wakeups", "", lambda run: run["wasted_wakeups"]),
    ("seconds asleep, all pulls", "slept_seconds", " s", _slept),
    ("… inside the transaction", "slept_in_transaction_seconds", " s", lambda run: run["slept_in_transaction_seconds"]),
    ("times a writer was refused", "tries", "", lambda run: run["tries"]),
    ("transactions", "transactions", "", lambda run: run["transactions"]),
)


def _causes(arms: Mapping[str, Sequence[Record]]) -> str:
    rows = []
    for label, field, unit, value in _CAUSES:
        if all(field in run for runs in arms.values() for run in runs):
            rows.append((label, *(counts([value(run) for run in runs], unit) for runs in arms.values())))
    return table(("why", *arms), rows)


def growth(records: Sequence[Record]) -> str:
    """Real seconds by scenario: a row for each step, a column for each arm."""
    runs = [record for record in records if record["record"] == "run"]
    parts = []
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        chosen = [run for run in runs if run["scenario"] == scenario]
        arms = list(dict.fromkeys(run["arm"] for run in chosen))
        steps = sorted({step_of(run) for run in chosen})
        rows = []
        for step in steps:
            cells = []
            for arm in arms:
                wall = [run["wall_seconds"] for run in runs_at([run for run in chosen if run["arm"] == arm], step)]
                cells.append(seconds(wall) if wall else "–")
            rows.append((str(step), *cells))
        parts.append(f"{chosen[0]['image']}\n" + table((f"real, by {axis_of(chosen[0])}", *arms), rows))
        parts.append("\n".join(line for arm in arms for line in _slope([run for run in chosen if run["arm"] == arm])))
    return "\n\n".join(part for part in parts if part)


def _slope(runs: Sequence[Record]) -> Iterator[str]:
    """What one more duplicate costs, by the fewest and each larger number of pulls, for runs of one arm and scenario;
    on the axis of images, what all callers take for what each image once takes."""
    axis = axis_of(runs[0])
    wall: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        wall.setdefault((step_of(run) if axis == "images" else 1, run["pulls"]), []).append(run["wall_seconds"])
    for step in sorted({step for step, _ in wall}):
        fewest, *more = sorted(pulls for one, pulls in wall if one == step)
        first = statistics.median(wall[step, fewest])
        for pulls in more:
            last = statistics.median(wall[step, pulls])
            per = (last - first) / (pulls - fewest) * 1000
            where = f"{step} images, " if axis == "images" else ""
            yield (
                f"{runs[0]['arm']}, {where}{pulls} pulls ÷ {fewest}: {last / first:.2f},"
                f" {per:.2f} ms for each further duplicate"
            )


def axis_of(run: Record) -> str:
    """What grows in this run's scenario: ``pulls``, ``layers``, ``images`` or ``processes``."""
    scenario = str(run["scenario"])
    return scenario.removeprefix("scale-") if scenario.startswith("scale-") else scenario.replace("compare", "pulls")


def runs_at(runs: Sequence[Record], step: int) -> list[Record]:
    """Those of one step, with the most pulls: on the axis of images each image is also pulled once."""
    at = [run for run in runs if step_of(run) == step]
    most = max((run["pulls"] for run in at), default=0)
    return [run for run in at if run["pulls"] == most]


def step_of(run: Record) -> int:
    """How far the axis has grown in this run."""
    fields = {"layers": "image_layers", "images": "images"}
    return int(run.get(fields.get(axis_of(run), "pulls"), run["pulls"]))
