"""Runs a pull's commands and says what they cost. Run as a script, in an interpreter that has imported next to nothing.

A child's ``ru_maxrss`` begins with its parent's size at the fork, on Linux also across ``exec``: forked from the
benchmark, every program would seem as large as the benchmark. From here the floor is this interpreter, some 10 MB.

Standard input: ``{"lanes": [[[program, argument…]…]…], "errors": FILE}``. Standard output: one JSON object.
"""

import json
import os
import sys
import time


def _run(lanes: list[list[list[str]]], errors: str) -> dict[str, object]:
    """Lanes start together and are waited for; a lane ends with its first command that fails."""
    quiet = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
    ]
    failed: list[str] = []
    running: dict[int, list[list[str]]] = {}

    def start(lane: list[list[str]]) -> None:
        program = lane[0][0]
        try:
            running[os.posix_spawnp(program, lane[0], os.environ, file_actions=quiet)] = lane
        except OSError as error:  # the other lanes must be waited for all the same
            failed.append(f"{program}: {error.strerror}")

    user = system = 0.0
    largest = 0
    began = time.perf_counter()
    for lane in lanes:
        start(lane)
    while running:
        pid, status, usage = os.wait4(-1, 0)
        lane = running.pop(pid)
        user, system, largest = user + usage.ru_utime, system + usage.ru_stime, max(largest, usage.ru_maxrss)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            failed.append(f"{lane[0][0]} ended with status {code}")
        elif len(lane) > 1:
            start(lane[1:])
    ended, ended_at = time.perf_counter(), time.monotonic()
    return {
        "wall_seconds": ended - began,
        "ended_at": ended_at,
        "user_seconds": user,
        "system_seconds": system,
        "max_rss_bytes": largest * (1 if sys.platform == "darwin" else 1024),
        "failed": failed,
    }


if __name__ == "__main__":
    order = json.load(sys.stdin)
    print(json.dumps(_run(order["lanes"], order["errors"])))
