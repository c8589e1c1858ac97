"""The first line of every results file: on what it was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import zlib
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["environment"]

_DISTRIBUTIONS = ("imgpull", "requests", "urllib3", "sqlite-utils", "tenacity", "isal", "backports.zstd")


def environment(filesystem: str, origin: str, durability: str) -> dict[str, Any]:
    """The header record. ``filesystem``: what stores lie on; ``origin``: the registry; ``durability``: of stores."""
    return {
        "record": "environment",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version for name in _DISTRIBUTIONS if (version := _version(name))},
        "sqlite": sqlite3.sqlite_version,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _from_cpuinfo("model name"),
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "sha_ni": "sha_ni" in _from_cpuinfo("flags").split(),
        "memory_bytes": _memory_bytes(),
        "filesystem": filesystem,
        "origin": origin,
        "durability": durability,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _from_cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() if key == "model name" else ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
