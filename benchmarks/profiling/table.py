"""The tables of ``profile``: stages, threads, the interpreter's lock, system calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.profiling.probes import DETACHED
from benchmarks.report import table, title

__all__ = ["lock_lines", "profile_table"]

Record = Mapping[str, Any]

_MOST_CALLS = 12


def profile_table(records: Sequence[Record]) -> str:
    """Of the round whose wall time is the median: times of one run add up, medians of several do not."""
    rounds = sorted((one for one in records if one["record"] == "profile"), key=lambda one: one["wall_seconds"])
    run = rounds[len(rounds) // 2]
    wall, user, system = (run[f"{name}_seconds"] for name in ("wall", "user", "system"))
    pulled = f"library call, durability {run['durability']}, with probes"
    spread = f"{len(rounds)} rounds, of which the median" if len(rounds) > 1 else "1 round"
    parts = [
        f"{title(run, 1, 'pull', pulled)} · {spread}",
        f"wall {wall:.2f} s, user {user:.2f} s, system {system:.2f} s",
        table(("stage", "calls", "wall", "CPU", "of all CPU"), _stages(run)),
        table(("threads", "how many", "wall", "CPU"), _rows(run["threads"])),
        "\n".join(lock_lines(run)),
        _calls(records),
    ]
    if run["missing"]:
        parts.append(f"not found, so counted with what calls it: {', '.join(run['missing'])}")
    return "\n\n".join(parts)


def _rows(sums: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, ...]]:
    for name, (count, wall, cpu) in sorted(sums.items(), key=lambda one: -one[1][2]):
        yield name, f"{count:.0f}", f"{wall:.3f} s", f"{cpu:.3f} s"


def _stages(run: Record) -> Iterator[tuple[str, ...]]:
    total = run["user_seconds"] + run["system_seconds"]
    for row in _rows(run["stages"]):
        yield *row, _percent(run["stages"][row[0]][2], total)
    rest = total - sum(cpu for _, _, cpu in run["stages"].values())
    yield "everything else", "", "", f"{rest:.3f} s", _percent(rest, total)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def lock_lines(run: Record) -> Iterator[str]:
    """How much of the time the interpreter's lock is held, from how many cores on it is the limit, what lifts it."""
    total, held = run["user_seconds"] + run["system_seconds"], run["gil_seconds"]
    yield (
        f"interpreter lock (GIL): held {held:.2f} s of {run['wall_seconds']:.2f} s wall"
        f" and {total:.2f} s CPU, by user time less that of {' and '.join(DETACHED)}, which let go of it"
    )
    waited = sum(max(0.0, wall - cpu) for name, (_, wall, cpu) in run["stages"].items() if name in DETACHED)
    yield f"waited after {' and '.join(DETACHED)} for the lock or for a core, all threads: {waited:.2f} s"
    if held <= 0:
        return
    yield f"so it is the limit from {total / held:.1f} cores on (CPU ÷ held), if the layers are even"
    bytecode = {name: cpu for name, (_, _, cpu) in run["stages"].items() if name not in DETACHED}
    if bytecode:
        most = max(bytecode, key=lambda name: bytecode[name])
        yield (
            f"what would lift it: less Python in {most!r} ({bytecode[most]:.2f} s of CPU, system calls included), an"
            " interpreter without the lock, or a process for each layer"
        )


def _calls(records: Sequence[Record]) -> str:
    traced = next(one for one in records if one["record"] == "syscalls")
    calls = traced["calls"]
    if not calls:
        return "system calls: not measured (strace is not on PATH, or may not trace)"
    entries = max(1, traced["entries"])
    total = sum(calls.values())
    rows = [(name, str(count), f"{count / entries:.2f}") for name, count in list(calls.items())[:_MOST_CALLS]]
    rows.append(("all", str(total), f"{total / entries:.2f}"))
    return f"{traced['entries']} entries\n" + table(("system call", "calls", "per entry"), rows)
