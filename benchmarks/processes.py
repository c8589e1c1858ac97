"""The seed's script in its own form: N processes that pull the same image into one store, started together.

The suppression arm is the command line as users have it. The other arm has no suppression across processes either, so
it is a process of :mod:`benchmarks.processes` with that arm's Puller.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.measure import MeasureError, Spec
from benchmarks.origin import ROOT, Origin

__all__ = ["PROCESS_ARMS", "empty_store", "import_seconds", "measure_processes", "reference_seconds"]

PROCESS_ARMS = ("suppression", "backoff")
"""``convoy`` is a lock inside one process: it has no form of several."""


def measure_processes(spec: Spec, served: Origin, *, dropped: bool) -> list[dict[str, Any]]:
    """Runs ``spec`` as processes. GETs and bytes are the registry's own count; what happens inside the processes
    (layers applied, wake-ups) can't be seen from here and is not in the record."""
    if spec.arm not in PROCESS_ARMS:
        raise MeasureError(f"the arm {spec.arm} lives inside one process; processes have {', '.join(PROCESS_ARMS)}")
    before = served.served()
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
        "images": len(set(spec.references)),
        "repeat": spec.repeat,
        "seed": spec.seed,
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
    if before is not None and after is not None:
        record.update(after.since(before))
    return [record]


def import_seconds(times: int = 5) -> float:
    """The median wall time of a process that imports imgpull and ends."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import imgpull"], cwd=ROOT, check=True)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def reference_seconds(one_pull_seconds: float, processes: int, importing_seconds: float, cores: int) -> float:
    """What so many processes can't be quicker than, if each imports imgpull and one of them pulls: one pull, and all
    imports on all cores."""
    return one_pull_seconds + processes * importing_seconds / cores


def empty_store(root: str) -> None:
    """``imgpull rmi`` of every image, then of every snapshot and blob, which ``rmi`` leaves to collection.

    The seed's script calls ``rmi``, not ``rm -r``: database, directories and lock files are there when the next run
    begins. Nothing to do where there is no store yet.
    """
    if not os.path.isdir(root):
        return
    from imgpull.store import Store

    with Store(root, durability="none") as store:
        references = sorted({image.reference for image in store.images.list()})
        if references:
            command = [sys.executable, "-m", "imgpull", "--store", root, "-q", "rmi", *references]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        snapshots = list(store.snapshots.walk())
        parents = {snapshot.parent for snapshot in snapshots}
        while snapshots:  # children first: a parent that is in use can't be removed
            for snapshot in [one for one in snapshots if one.name not in parents]:
                store.snapshots.remove(snapshot.name)
                snapshots.remove(snapshot)
            parents = {snapshot.parent for snapshot in snapshots}
        for blob in list(store.content.walk()):
            store.content.remove(blob.digest)
    os.sync()


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
