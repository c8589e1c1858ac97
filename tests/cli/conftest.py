"""The command in a process of its own, with a home of its own, against a registry in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr, without its prefix."""
        assert self.err.startswith("imgpull: error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("imgpull: error: ").rstrip("\n")


@dataclass(frozen=True)
class Command:
    """Runs ``python -m imgpull`` on the store in ``store``."""

    home: Path
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.home / "store"

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        inherited = {name: os.environ[name] for name in os.environ if name == "PATH" or name.startswith("COV")}
        places = {"HOME": str(self.home), "DOCKER_CONFIG": str(self.home / "docker"), "PYTHONPATH": str(ROOT)}
        python = (sys.executable, "-X", "dev", "-W", "error")
        return subprocess.Popen(
            [*self.prefix, *python, "-m", "imgpull", "--store", str(self.store), *arguments],
            env={**inherited, **places, **self.environment},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> Ran:
        with process:
            try:
                out, err = process.communicate(timeout=DEADLINE_SECONDS)
            finally:
                process.kill()
        return Ran(process.returncode, out, err)

    def __call__(self, *arguments: str) -> Ran:
        return self.finish(self.begin(*arguments))

    def partial_bytes(self) -> int:
        """How much of what is being fetched is on the disk."""
        return sum(data.stat().st_size for data in (self.store / "ingest").glob("*/data"))

    def leftovers(self) -> dict[str, list[str]]:
        """What a failed pull must not leave: partials, unfinished snapshots, image records, wrong blobs."""
        left = {
            "ingests": _names(self.store / "ingest"),
            "active": _names(self.store / "snapshots" / "active"),
            "images": [image["reference"] for image in self("--json", "images").document],
            "wrong": [
                blob.name
                for blob in (self.store / "blobs").rglob("*")
                if blob.is_file() and sha256(blob.read_bytes()).hexdigest() != blob.name
            ],
        }
        return {kind: found for kind, found in left.items() if found}


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def unprivileged(tmp_path: Path) -> Command:
    """The command as somebody to whom permissions apply. (Another user might not reach this interpreter.)"""
    if os.getuid() != 0:
        return Command(tmp_path)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("permissions don't apply to root, and there is no setpriv to change that")
    return Command(tmp_path, (setpriv, "--bounding-set=-dac_override,-dac_read_search"))
