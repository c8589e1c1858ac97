"""System calls of a pull, by ``strace -c -f``: those of a process that pulls, less those of one that does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import MeasureError, Spec
from benchmarks.origin import ROOT

__all__ = ["parse_counts", "syscalls_of"]


def parse_counts(text: str) -> dict[str, int]:
    """Calls by name in the table that ``strace -c`` writes."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split()
        # "% time  seconds  usecs/call  calls  [errors]  syscall"
        if len(fields) in (5, 6) and fields[3].isdigit() and fields[0][0].isdigit() and fields[-1] != "total":
            counts[fields[-1]] = int(fields[3])
    return counts


def syscalls_of(spec: Spec) -> Mapping[str, int] | None:
    """By name, most first; None where strace is not on PATH or may not trace. The store of ``spec`` must be empty.
    Raises MeasureError where the pull fails."""
    if shutil.which("strace") is None:
        return None
    idle = _counted(replace(spec, pulls=0, store=f"{spec.store}-idle"))
    pulled = _counted(spec)
    if not idle or not pulled:
        return None
    less = {name: count - idle.get(name, 0) for name, count in pulled.items()}
    return dict(sorted(((name, count) for name, count in less.items() if count > 0), key=lambda one: -one[1]))


def _counted(spec: Spec) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="imgpull-strace-") as folder:
        written = Path(folder) / "counts"
        command = ["strace", "-c", "-f", "-o", str(written), sys.executable, "-m", "benchmarks.measure"]
        done = subprocess.run(command, cwd=ROOT, input=spec.to_json(), capture_output=True, text=True, check=False)
        counts = parse_counts(written.read_text()) if written.exists() else {}
    if done.returncode != 0 and counts:
        raise MeasureError(f"the pull under strace failed: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return counts
