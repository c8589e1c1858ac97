"""The pictures: growth curves, and the timeline of who waited on whom.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; waste is warm, work is cool.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import axis_of, read_records, runs_at, step_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bar", "PlotError", "bars_of", "merged", "plot"]

Record = Mapping[str, Any]

_WAITING, _QUEUED, _FETCHING, _UNPACKING = "waiting", "queued", "fetching", "unpacking"
_ASLEEP, _FETCHING_AGAIN, _UNPACKING_AGAIN = "asleep", "fetching again", "unpacking again"
_COLOURS = {
    _WAITING: "#d3d8df",
    _QUEUED: "#efb8ab",
    _ASLEEP: "#cc3311",
    _FETCHING: "#56b4e9",
    _FETCHING_AGAIN: "#cc79a7",
    _UNPACKING: "#009e73",
    _UNPACKING_AGAIN: "#e69f00",
}
_LABELS = {
    _WAITING: "waiting to be told; costs nothing",
    _FETCHING: "fetching a blob, the first to do so",
    _UNPACKING: "unpacking a layer, the first to do so",
    _ASLEEP: "asleep: refused, and backing off blindly",
    _FETCHING_AGAIN: "fetching what somebody else has begun to fetch",
    _UNPACKING_AGAIN: "unpacking what somebody else has begun to unpack",
    _QUEUED: "queued for the one transaction, in which others sleep",
}
_ARM_COLOURS = {"suppression": "#009e73", "backoff": "#e69f00", "convoy": "#cc3311"}
_ARM_TITLES = {
    "suppression": "with duplicate suppression",
    "backoff": "without: back-off and try again",
    "convoy": "without, retrying inside the transaction (containerd before)",
}
_INK = "#1f2933"


class PlotError(Exception):
    """There is nothing to draw, or nothing to draw with."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One coloured piece of a pull's row."""

    kind: str
    start_seconds: float
    end_seconds: float


def plot(results: Path, out: Path) -> list[Path]:
    """Draws what the results file holds; returns the pictures' paths. Raises PlotError."""
    records = read_records(results)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotError("drawing needs matplotlib: pip install 'imgpull[plot]'") from None
    out.mkdir(parents=True, exist_ok=True)
    written = []
    timelines = _one_of_each_arm(record for record in records if record["record"] == "timeline")
    runs = [record for record in records if record["record"] == "run"]
    if timelines:
        figure = Figure(figsize=(13, 3.4 + 3.1 * len(timelines)), dpi=130, facecolor="white")
        FigureCanvasAgg(figure)
        _draw_timelines(figure, timelines, runs)
        written.append(_save(figure, out / "timeline.png"))
    for axis in dict.fromkeys(axis_of(run) for run in runs):
        chosen = _growing([run for run in runs if axis_of(run) == axis])
        if chosen:
            figure = Figure(figsize=(9, 6), dpi=130, facecolor="white")
            FigureCanvasAgg(figure)
            _draw_growth(figure, chosen, axis)
            written.append(_save(figure, out / f"growth-{axis}.png"))
    if not written:
        raise PlotError(f"{results} holds no timeline and no run with more than one step: nothing to draw")
    return written


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path


def _one_of_each_arm(timelines: Iterable[Record]) -> list[Record]:
    """The timeline of median length for each arm."""
    by_arm: dict[str, list[Record]] = {}
    for record in timelines:
        by_arm.setdefault(record["arm"], []).append(record)
    return [
        sorted(records, key=lambda record: float(record["wall_seconds"]))[(len(records) - 1) // 2]
        for records in by_arm.values()
    ]


def _growing(runs: Sequence[Record]) -> list[Record]:
    """The runs of arms that were measured at more than one step: one point is no curve."""
    steps: dict[str, set[int]] = {}
    for run in runs:
        steps.setdefault(run["arm"], set()).add(step_of(run))
    return [run for run in runs if len(steps[run["arm"]]) > 1]


def bars_of(traces: Sequence[Record]) -> list[list[Bar]]:
    """The bars of each pull's row, in the order they are painted: waiting below, sleep, then work on top.

    Work is *again* when another pull had begun the same before: under suppression there is none.
    """
    first: dict[tuple[str, str], float] = {}
    for trace in traces:
        for kind, what, start, _ in trace["spans"]:
            if kind != _ASLEEP:
                first[kind, what] = min(start, first.get((kind, what), start))
    rows = []
    for trace in traces:
        asleep, work = [], []
        for kind, what, start, end in trace["spans"]:
            if kind == _ASLEEP:
                asleep.append((start, end))
            else:
                again = " again" if start > first[kind, what] else ""
                work.append(Bar(kind + again, start, end))
        waiting = [Bar(_WAITING, trace["start_seconds"], trace["end_seconds"])]
        work.sort(key=lambda bar: bar.kind.startswith(_UNPACKING))
        rows.append([*waiting, *(Bar(_ASLEEP, *interval) for interval in merged(asleep)), *work])
    return rows


def merged(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Overlapping intervals made one: several workers of a pull may sleep at once."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _draw_timelines(figure: Figure, timelines: Sequence[Record], runs: Sequence[Record]) -> None:
    from matplotlib.patches import Patch

    height = figure.get_figheight()
    most = max(int(record["pulls"]) for record in timelines)
    title = f"{most} callers want the same image at the same moment"
    figure.text(0.03, 1 - 0.5 / height, title, fontsize=18, weight="bold", color=_INK)
    figure.text(0.03, 1 - 1.3 / height, _caption(timelines[0], runs), fontsize=10.5, color=_INK, linespacing=1.5)
    panels = figure.subplots(len(timelines), 1, squeeze=False, sharex=True)[:, 0]
    longest = max(float(record["wall_seconds"]) for record in timelines)
    for panel, record in zip(panels, timelines, strict=True):
        _draw_timeline(panel, record, longest, "" if record["pulls"] == most else f", {record['pulls']} callers only")
    panels[-1].set_xlabel("seconds since all of them called", color=_INK)
    arms = {record["arm"] for record in timelines}
    shown = [kind for kind in _LABELS if kind != _QUEUED or "convoy" in arms]
    handles = [Patch(color=_COLOURS[kind], label=_LABELS[kind]) for kind in shown]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=10)
    figure.subplots_adjust(left=0.05, right=0.985, top=1 - 1.95 / height, bottom=1.45 / height, hspace=0.3)


def _caption(first: Record, runs: Sequence[Record]) -> str:
    size = next((run["image_bytes"] for run in runs if run["image"] == first["image"]), 0)
    of = f" ({size / 1e6:.0f} MB)" if size else ""
    return textwrap.fill(
        f"Image {first['image']}{of}. One row is one caller, from its call (left) to its return (black mark); all "
        "panels have one time scale. Blue and green is work that had to be done. Orange and pink is the same work done "
        "again and thrown away; red is sleep that nobody ends. All of them get the same result.",
        width=128,
    )


def _draw_timeline(axes: Axes, record: Record, longest: float, remark: str) -> None:
    traces = sorted(record["traces"], key=lambda trace: (_work_starts(trace), trace["end_seconds"]))
    wall = float(record["wall_seconds"])
    _draw_rows(axes, traces, str(record["arm"]), longest)
    axes.axvline(wall, color=_INK, linewidth=0.8, linestyle=":")
    title = _ARM_TITLES.get(record["arm"], str(record["arm"]))
    title = f"{title}{remark}: all have it after {wall:.2f} s"
    axes.set_title(title, loc="left", fontsize=13, color=_INK, weight="bold")
    axes.set_xlim(0, longest * 1.02)
    axes.set_ylabel("caller", color=_INK)
    if wall < longest * 0.15:
        # By the others' clock there is next to nothing to see: the same rows again, enlarged.
        inset = axes.inset_axes((0.22, 0.12, 0.76, 0.76))
        _draw_rows(inset, traces, str(record["arm"]), wall)
        inset.set_xlim(0, wall * 1.02)
        inset.set_title(f"the same {wall:.2f} s, enlarged", loc="left", fontsize=10, color=_INK)


def _draw_rows(axes: Axes, traces: Sequence[Record], arm: str, scale_seconds: float) -> None:
    for row, bars in enumerate(bars_of(traces)):
        for bar in bars:
            kind = _QUEUED if bar.kind == _WAITING and arm == "convoy" else bar.kind
            thickness = 0.5 if bar.kind == _WAITING else 0.84
            width = max(bar.end_seconds - bar.start_seconds, scale_seconds / 1000)
            axes.barh(row, width, left=bar.start_seconds, height=thickness, color=_COLOURS[kind], linewidth=0)
        axes.plot([traces[row]["end_seconds"]] * 2, [row - 0.45, row + 0.45], color=_INK, linewidth=1.4)
    step = 1 if len(traces) <= 10 else 5
    marks = [number for number in range(1, len(traces) + 1) if number == 1 or number % step == 0]
    axes.set_yticks([mark - 1 for mark in marks], [str(mark) for mark in marks], fontsize=8)
    axes.set_ylim(len(traces) - 0.3, -0.7)
    axes.tick_params(length=0, labelbottom=True)
    axes.xaxis.grid(True, color="#eceff3")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _work_starts(trace: Record) -> float:
    """Rows with work come first, in the order in which they began it."""
    return min((start for kind, _, start, _ in trace["spans"] if kind != _ASLEEP), default=float("inf"))


def _draw_growth(figure: Figure, runs: Sequence[Record], axis: str) -> None:
    from matplotlib.ticker import LogLocator

    axes = figure.subplots()
    for arm in dict.fromkeys(run["arm"] for run in runs):
        chosen = [run for run in runs if run["arm"] == arm]
        steps = sorted({step_of(run) for run in chosen})
        walls = [[run["wall_seconds"] for run in runs_at(chosen, step)] for step in steps]
        middle = [statistics.median(wall) for wall in walls]
        colour = _ARM_COLOURS.get(arm)
        axes.fill_between(steps, [min(wall) for wall in walls], [max(wall) for wall in walls], color=colour, alpha=0.18,
                          linewidth=0)  # fmt: skip
        axes.plot(steps, middle, marker="o", color=colour, linewidth=2)
        axes.annotate(f"{arm} {middle[-1]:.1f} s", (steps[-1], middle[-1]), xytext=(0, 9), textcoords="offset points",
                      color=colour, fontsize=11, ha="center", weight="bold")  # fmt: skip
    axes.set_yscale("log")
    if max(step_of(run) for run in runs) >= 20:
        axes.set_xscale("log")
    steps = sorted({step_of(run) for run in runs})
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel(_AXIS_LABELS.get(axis, axis), color=_INK)
    axes.set_ylabel("seconds until the last caller has it (log scale)", color=_INK)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(True, which="both", color="#eceff3")
    axes.margins(x=0.08, y=0.12)
    axes.set_title(f"{runs[0]['image']}: what more {axis} cost", loc="left", fontsize=15, weight="bold", color=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.text(0.01, 0.012, "Median of the repeats, least to most shaded. Flat is what suppression promises.",
                fontsize=9, color=_INK)  # fmt: skip
    figure.subplots_adjust(left=0.1, right=0.97, top=0.91, bottom=0.14)


_AXIS_LABELS = {
    "pulls": "callers that pull the same image at the same moment",
    "layers": "layers in the image",
    "images": "different images pulled at the same moment",
    "processes": "processes that pull the same image at the same moment",
}
