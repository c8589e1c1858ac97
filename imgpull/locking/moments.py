"""Moments that processes of one machine can compare."""

from __future__ import annotations

import os
import time

__all__ = ["clock_name", "now_ns"]


def now_ns() -> int:
    """Nanoseconds since the machine started, with those it slept: the same for every process that has the same
    :func:`clock_name`. Where the system has no such clock, one that only this process can read."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


def clock_name() -> str | None:
    """Which clock :func:`now_ns` reads: this boot's, as the process's time namespace shifts it (``time_namespaces(7)``;
    containers that share a directory need not share that). None where it can't be compared."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        namespace = os.readlink("/proc/self/ns/time") if os.path.lexists("/proc/self/ns/time") else ""
    except (OSError, ValueError):
        return None
    return f"{boot} {namespace}" if hasattr(time, "CLOCK_BOOTTIME") else None
