"""The table of peers: what each took, and how many times what imgpull took in the same round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.processes import reference_seconds
from benchmarks.report import counts, factor, seconds, table, title

__all__ = ["peers_table", "processor", "ratios", "real"]

Record = Mapping[str, Any]
_BASES = ("imgpull", "imgpull-unsynced", "imgpull-library")
_PROCESSES = ("imgpull", "imgpull-unsynced")

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
    """For each number of pulls two tables, rows in the order of the records; below them the notes, who failed, and who
    was not here."""
    runs = [record for record in records if record["record"] == "run" and record["scenario"] != "reference"]
    failures = [record for record in records if record["record"] == "failure"]
    parts = []
    for pulls in dict.fromkeys(run["pulls"] for run in runs):
        parts += _tables([run for run in runs if run["pulls"] == pulls])
        parts.append(_lines(_processes(records, pulls)))
    notes = {run["arm"]: run["note"] for run in runs if run["note"]}
    parts.append(_lines(f"{arm}: {note}" for arm, note in notes.items()))
    parts.append(_lines(f"failed, round {one['repeat']}: {one['arm']}: {one['error']}" for one in failures))
    absent = {(one["arm"], one["reason"]) for one in records if one["record"] == "absent"}
    parts.append(_lines(f"not here: {arm}: {reason}" for arm, reason in sorted(absent)))
    return "\n\n".join(part for part in parts if part)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _tables(runs: Sequence[Record]) -> list[str]:
    """What each took, then what each took for what imgpull took: synced first, unsynced and as a library beside it."""
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    of_arm = {arm: [run for run in runs if run["arm"] == arm] for arm in arms}
    bases = [base for base in _BASES if base in arms] or arms[:1]
    costs = ("peer", "real", "user", "sys", "largest process", "fetched", "HEADs")
    compared = ("peer", *(f"real ÷ {base}" for base in bases), *(f"user+sys ÷ {base}" for base in bases))
    rows = []
    for arm in arms:
        wall = (factor(ratios(of_arm[arm], of_arm[base])) for base in bases)
        cpu = (factor(ratios(of_arm[arm], of_arm[base], processor)) for base in bases)
        rows.append((arm, *wall, *cpu))
    return [_title(runs), table(costs, [_row(arm, of_arm[arm]) for arm in arms]), table(compared, rows)]


def _processes(records: Sequence[Record], pulls: int) -> Iterator[str]:
    """What several imgpull processes are measured by: one pull and all imports on all cores, in the same round."""
    importing = {one["repeat"]: one["wall_seconds"] for one in records if one["record"] == "import"}
    runs = [record for record in records if record["record"] == "run"]
    cores = next((one["cpus"] for one in records if one["record"] == "environment"), 1)
    for arm in dict.fromkeys(run["arm"] for run in runs if run["arm"] in _PROCESSES):
        of_arm = [run for run in runs if run["arm"] == arm]
        alone = {run["repeat"]: run["wall_seconds"] for run in of_arm if run["pulls"] == 1}
        several = [
            run for run in of_arm if run["pulls"] == pulls and {run["repeat"]} <= alone.keys() & importing.keys()
        ]
        if pulls == 1 or not several:
            continue
        reference = [reference_seconds(alone[run["repeat"]], pulls, importing[run["repeat"]], cores) for run in several]
        shares = [run["wall_seconds"] / value for run, value in zip(several, reference, strict=True)]
        yield (
            f"{arm}, {pulls} processes: {seconds([run['wall_seconds'] for run in several])}; one pull and {pulls} ×"
            f" import imgpull ÷ {cores} cores: {seconds(reference)}; ratio {factor(shares)}"
        )


def _title(runs: Sequence[Record]) -> str:
    first = runs[0]
    pulls = "1 pull" if first["pulls"] == 1 else f"{first['pulls']} pulls at once"
    cold = ", page cache dropped" if first.get("cold") else ""
    return title(first, max(run["repeat"] for run in runs), "round", f"{pulls} into an empty store{cold}")


def _row(arm: str, runs: Sequence[Record]) -> tuple[str, ...]:
    fetched = "bytes_fetched" in runs[0]
    return (
        arm,
        seconds([run["wall_seconds"] for run in runs]),
        seconds([run["user_seconds"] for run in runs]),
        seconds([run["system_seconds"] for run in runs]),
        counts([run["max_rss_bytes"] / 1e6 for run in runs], " MB"),
        counts([run["bytes_fetched"] / 1e6 for run in runs], " MB") if fetched else "–",
        counts([run["manifest_heads"] for run in runs]) if fetched else "–",
    )
