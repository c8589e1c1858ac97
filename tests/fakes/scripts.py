"""Python programs in processes of their own, for what one process can't show: locks, forks, exits."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60.0
Program = subprocess.Popen[str]


def begin(source: str, *arguments: object, options: tuple[str, ...] = ()) -> Program:
    """Start a program that imports this checkout; its arguments are ``sys.argv[1:]``."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(source)
    return subprocess.Popen(
        [sys.executable, *options, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: Program, said: str = "") -> str:
    """Say ``said`` to it, wait for its end, and return what it printed. It must succeed."""
    out, err = process.communicate(said, timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, err
    return out


def run(source: str, *arguments: object, options: tuple[str, ...] = ()) -> str:
    """:func:`begin` and :func:`finish`."""
    return finish(begin(source, *arguments, options=options))


def run_together(count: int, source: str, *arguments: object) -> list[str]:
    """Run ``count`` of them; each is let go when all have printed ``ready`` and wait for a line (``input()``).

    The number of the process is its last argument."""
    processes = [begin(source, *arguments, number) for number in range(count)]
    for process in processes:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != "ready\n":
            raise AssertionError(f"not ready: {line!r} {finish(process)}")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [finish(process) for process in processes]
