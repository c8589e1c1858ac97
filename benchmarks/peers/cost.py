"""What a pull costs: its commands under a deadline, and what a daemon spends for them meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.origin import ROOT
from benchmarks.peers.peer import PeerError, Ready

__all__ = ["Usage", "cost_of", "last_line", "usage_of"]

_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and all that live below it, since they began, those that have ended and were waited for included."""

    user_seconds: float
    system_seconds: float
    max_rss_bytes: int
    """Of the largest."""


def cost_of(ready: Ready, timeout_seconds: float) -> dict[str, Any]:
    """Runs the pull; returns the record's fields of time and memory. Raises PeerError when a command fails, with the
    last line on its standard error, or when all are not done in time; then nothing of them is left running."""
    if ready.own_cost is not None:
        return dict(ready.own_cost(timeout_seconds))
    with tempfile.TemporaryDirectory(prefix="imgpull-peer-") as folder:
        errors = Path(folder) / "errors"
        before = usage_of(ready.daemon)
        order = {"lanes": [[list(command) for command in lane] for lane in ready.lanes], "errors": str(errors)}
        spent = _launched(order, dict(ready.environment), timeout_seconds)
        after = usage_of(ready.daemon)
        if spent["failed"]:
            raise PeerError(last_line(errors) or spent["failed"][0])
    return {
        "wall_seconds": round(spent["wall_seconds"], 6),
        "ended_at": spent["ended_at"],
        "user_seconds": round(spent["user_seconds"] + after.user_seconds - before.user_seconds, 6),
        "system_seconds": round(spent["system_seconds"] + after.system_seconds - before.system_seconds, 6),
        "max_rss_bytes": max(spent["max_rss_bytes"], after.max_rss_bytes),
    }


def _launched(order: dict[str, Any], environment: dict[str, str], timeout_seconds: float) -> dict[str, Any]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_LAUNCH)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(json.dumps(order).encode(), timeout_seconds)
    except subprocess.TimeoutExpired:
        raise PeerError(f"not done within {timeout_seconds:.0f} s, and ended") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # a group of its own: the commands and their children
            process.communicate()
    if process.returncode != 0:
        raise PeerError(errors.decode(errors="replace").strip().rpartition("\n")[2] or "its commands did not start")
    spent: dict[str, Any] = json.loads(output)
    return spent


def last_line(path: Path) -> str:
    """The last line of a log that says anything; empty where there is none."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def usage_of(pid: int | None) -> Usage:
    """By Linux's ``/proc``; nothing for no process."""
    ticks = os.sysconf("SC_CLK_TCK")
    user = system = 0
    largest = 0
    if pid is not None:
        _stat(pid)  # a daemon that has died is a failure, a child of it that has ended is not
    for process in _tree(pid) if pid is not None else ():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            fields = _stat(process)
            # proc(5): utime, stime and the same of children waited for, fields 14 to 17
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
            largest = max(largest, _peak_bytes(process))
    return Usage(user / ticks, system / ticks, largest)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in tuple(Path(f"/proc/{pid}/task").iterdir()):
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in (task / "children").read_text().split():
                    yield from _tree(int(child))


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the third on; the second, a name in brackets, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
