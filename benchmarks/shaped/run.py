"""The rounds of ``shaped``: peers pull through the line, and the time between its last byte and their end is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.peers.peer import Peer
from benchmarks.peers.rounds import Rounds
from benchmarks.shaped.proxy import Line, Shaped

__all__ = ["ShapedRounds", "tail_of"]

Record = dict[str, Any]


def tail_of(run: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> Record:
    """The fields of a run that ended at ``ended_at``, by what the proxy said before and after it. The tail is never
    negative: a byte after the end, such as of a connection that was closed, is none of the image's."""
    tail = max(0.0, run["ended_at"] - after["last_byte_at"])
    return {
        "last_byte_seconds": round(run["wall_seconds"] - tail, 6),
        "tail_seconds": round(tail, 6),
        "line_bytes": after["bytes"] - before["bytes"],
    }


class ShapedRounds:
    """Peers' rounds with one more thing to measure."""

    def __init__(self, rounds: Rounds, shaped: Shaped, line: Line) -> None:
        self._rounds = rounds
        self._shaped = shaped
        self._line = line

    def run(self, peers: Sequence[Peer], rounds: int, emit: Callable[[Record], None]) -> None:
        """One pull at a time, interleaved."""
        before = self._shaped.last_byte()

        def tailed(record: Record) -> None:
            nonlocal before
            after = self._shaped.last_byte()
            if record["record"] in ("run", "failure"):
                record = {
                    **record,
                    "scenario": "shaped",
                    "latency_seconds": self._line.latency_seconds,
                    "rate_bytes": self._line.rate_bytes,
                }
            if record["record"] == "run":
                record.update(tail_of(record, before, after))
            before = after
            emit(record)

        self._rounds.run(peers, [1], rounds, tailed)
