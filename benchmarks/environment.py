"""The first line of every results file: on what it was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
import zlib
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.origin import ROOT

__all__ = ["commit_of", "environment"]

_DISTRIBUTIONS = ("imgpull", "requests", "urllib3", "sqlite-utils", "tenacity", "isal", "backports.zstd")


def environment(filesystem: str, origin: str, durability: str, seed: int | None = None) -> dict[str, Any]:
    """The header record. ``filesystem``: what stores lie on; ``origin``: the registry; ``durability``: of stores;
    ``seed``: of the arms' random sleeps."""
    return {
        "record": "environment",
        "commit": commit_of(ROOT),
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
        "seed": seed,
    }


def commit_of(checkout: Path) -> str | None:
    """The commit ``checkout`` is at, with ``-dirty`` where files under version control differ; None outside a
    repository."""
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


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
