"""Calls that write to a database, put into one group of its writer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fakes.threads import DEADLINE_SECONDS, Worker, start, until
from imgpull.store.database import Connection, Database


@contextmanager
def plugged(database: Database) -> Iterator[None]:
    """While this is open the writer is busy with one write, and all others queue."""
    entered, gate = threading.Event(), threading.Event()

    def plug(_: Connection) -> None:
        entered.set()
        assert gate.wait(DEADLINE_SECONDS)

    worker = start(lambda: database.write(plug), "plug")
    assert entered.wait(DEADLINE_SECONDS)
    try:
        yield
    finally:
        gate.set()
        worker.outcome()


def grouped(database: Database, calls: Sequence[Callable[[], object]]) -> list[Worker]:
    """One thread for each call, which writes once: in this order in the queue, all in one group."""
    workers = []
    with plugged(database):
        for number, call in enumerate(calls):
            workers.append(start(call, f"write-{number}"))
            until(lambda expected=number + 1: database._writer._queue.qsize() == expected, "the write is queued")
    return [worker.done() for worker in workers]
