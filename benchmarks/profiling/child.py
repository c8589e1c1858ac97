"""One pull with probes, in a process of its own. Reads a :class:`~benchmarks.measure.Spec`, writes one JSON object."""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.measure import Spec, preload
from benchmarks.profiling.probes import DETACHED, Probes, missing_points

__all__ = ["by_name", "profiled"]


def by_name(threads: Iterable[tuple[str, float, float]]) -> dict[str, list[float]]:
    """How many, wall and processor time, by name less what tells threads of one kind apart."""
    sums: dict[str, list[float]] = {}
    for name, wall, cpu in threads:
        kind = re.sub(r"[-_ ]?(\d+|\(.*\)|sha256:\S*)$", "", name.partition(" ")[0]) or name
        one = sums.setdefault(kind, [0, 0.0, 0.0])
        one[0] += 1
        one[1] += wall
        one[2] += cpu
    return sums


def profiled(spec: Spec) -> dict[str, Any]:
    """Pulls the first reference. The store is opened before the clocks start, as in :mod:`benchmarks.measure`."""
    from benchmarks.baselines import arm_called

    arm = arm_called(spec.arm)
    probes = Probes()
    with probes.installed(), arm.open_store(spec.store, spec.durability) as store, arm.make_puller(store) as puller:
        usage, wall, cpu = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), time.thread_time()
        probes.stages.clear()
        puller.pull(spec.references[0])
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        after = resource.getrusage(resource.RUSAGE_SELF)
        stages = {name: list(sums) for name, sums in probes.stages.items()}
    probes.threads.append(("caller", wall, cpu))
    user, system = after.ru_utime - usage.ru_utime, after.ru_stime - usage.ru_stime
    return {
        "wall_seconds": round(wall, 6),
        "user_seconds": round(user, 6),
        "system_seconds": round(system, 6),
        "gil_seconds": round(held_seconds(user, stages), 6),
        "stages": {name: [round(value, 6) for value in sums] for name, sums in stages.items()},
        "threads": {name: [round(value, 6) for value in sums] for name, sums in by_name(probes.threads).items()},
        "missing": missing_points(),
    }


def held_seconds(user_seconds: float, stages: dict[str, list[float]]) -> float:
    """How long the interpreter's lock was held, at most: all time in user mode but that of C code which had let go of
    it. System calls let go of it, too; the few µs in user mode around each of them are counted as held."""
    return max(0.0, user_seconds - sum(stages[name][2] for name in DETACHED if name in stages))


def _main() -> None:
    spec = Spec.from_json(sys.stdin.read())
    preload()
    try:
        result = profiled(spec)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
