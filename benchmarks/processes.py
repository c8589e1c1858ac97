"""The seed's script in its own form: N processes that pull the same image into one store, started together.

The suppression arm is the command line as users have it. The other arm has no suppression across processes either, so
it is a process of :mod:`benchmarks.processes` with that arm's Puller.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.measure import MeasureError, Spec
from benchmarks.origin import ROOT, Origin

__all__ = ["measure_processes"]

_ARMS = ("suppression", "backoff")


def measure_processes(spec: Spec, served: Origin, *, dropped: bool) -> list[dict[str, Any]]:
    """Runs ``spec`` as processes. GETs and bytes are the registry's own count; what happens inside the processes
    (layers applied, wake-ups) can't be seen from here and is not in the record."""
    if spec.arm not in _ARMS:
        raise MeasureError(f"the arm {spec.arm} lives inside one process; --processes has {', '.join(_ARMS)}")
    before = served.served() or (0, 0)
    start = time.perf_counter()
    children = [_start(spec, number) for number in range(spec.pulls)]
    usages = [_wait(child, spec) for child in children]
    wall = time.perf_counter() - start
    record: dict[str, Any] = {
        "record": "run",
        "scenario": spec.scenario,
        "arm": spec.arm,
        "image": spec.image,
        "pulls": spec.pulls,
        "repeat": spec.repeat,
        "wall_seconds": round(wall, 6),
        "user_seconds": round(sum(usage.ru_utime for usage in usages), 6),
        "system_seconds": round(sum(usage.ru_stime for usage in usages), 6),
        "max_rss_bytes": max(usage.ru_maxrss for usage in usages) * (1 if sys.platform == "darwin" else 1024),
        "image_bytes": spec.image_bytes,
        "image_layers": spec.image_layers,
        "durability": spec.durability,
        "caches_dropped": dropped,
    }
    after = served.served()
    if after is not None:
        record["blob_gets"], record["bytes_fetched"] = after[0] - before[0], after[1] - before[1]
    return [record]


def _start(spec: Spec, number: int) -> subprocess.Popen[bytes]:
    reference = spec.references[number % len(spec.references)]
    if spec.arm == "suppression":
        options = ["--store", spec.store, "--durability", spec.durability, "-q"]
        command = [sys.executable, "-m", "imgpull", *options, "pull", reference]
    else:
        command = [sys.executable, "-m", "benchmarks.processes", spec.arm, spec.store, spec.durability, reference]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def _wait(child: subprocess.Popen[bytes], spec: Spec) -> Any:
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise MeasureError(f"a process of {spec.arm} ended with status {child.returncode}; its message is above")
    return usage


def _main(arm_name: str, root: str, durability: str, reference: str) -> None:
    from benchmarks.baselines import arm_called

    arm = arm_called(arm_name)
    with arm.open_store(root, durability) as store, arm.make_puller(store) as puller:
        puller.pull(reference)


if __name__ == "__main__":
    _main(*sys.argv[1:])
