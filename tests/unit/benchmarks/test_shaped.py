"""The line before a registry: who may send when, what passes through, and what is derived from its clock."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.shaped.proxy import Bucket, Line, Proxy
from benchmarks.shaped.run import tail_of
from benchmarks.shaped.table import shaped_table


def test_bytes_pass_one_after_another_at_the_rate() -> None:
    now = 0.0
    bucket = Bucket(100.0, clock=lambda: now)
    assert bucket.slot(50, not_before=0.0) == 0.5
    assert bucket.slot(100, not_before=0.0) == 1.5  # behind the first
    now = 10.0
    assert bucket.slot(100, not_before=0.0) == 11.0  # what was not used is not saved up
    assert bucket.slot(100, not_before=20.0) == 21.0  # half the latency has to pass first


def test_a_line_is_described() -> None:
    assert Line(0.02, 50e6).description == "20 ms and 50 MB/s"


@contextmanager
def listening(target: tuple[str, int]) -> Iterator[Proxy]:
    made = Proxy(target, Line(0.0, 1e12))
    thread = threading.Thread(target=made.serve, name="proxy")
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()


def test_bytes_go_both_ways_and_the_last_are_noted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin, listening(origin.getsockname()[:2]) as made:
        host, _, port = made.address.rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            answering, _ = origin.accept()
            with answering, answering.makefile("rb") as asked:
                assert asked.read() == b"question"
                answering.sendall(b"a" * 300_000)
            with client.makefile("rb") as answered:
                assert answered.read() == b"a" * 300_000
    fields = made.last.fields()
    assert fields["bytes"] == 300_000
    assert fields["last_byte_at"] > 0


def test_a_registry_that_is_gone_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        gone = origin.getsockname()[:2]
    with listening(gone) as made:
        host, _, port = made.address.rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            assert client.recv(1) == b""
    assert made.last.fields() == {"last_byte_at": 0.0, "bytes": 0}


def test_an_answer_to_head_is_no_last_byte() -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        made = Proxy(origin.getsockname()[:2], Line(0.0, 1.0))
    made.last.note(500)
    assert made.last.fields() == {"last_byte_at": 0.0, "bytes": 500}
    made.close()


def test_the_tail_lies_between_the_last_byte_and_the_end() -> None:
    run = {"wall_seconds": 4.0, "ended_at": 104.0}
    before, after = {"last_byte_at": 90.0, "bytes": 1000}, {"last_byte_at": 103.75, "bytes": 9000}
    assert tail_of(run, before, after) == {"last_byte_seconds": 3.75, "tail_seconds": 0.25, "line_bytes": 8000}
    late = {"last_byte_at": 104.5, "bytes": 9000}
    assert tail_of(run, before, late)["tail_seconds"] == 0.0


@pytest.mark.parametrize(("tails", "within"), [((0.1, 0.2, 0.5), "yes"), ((0.1, 0.4, 0.5), "no")])
def test_the_table_says_whether_the_bar_is_kept(tails: tuple[float, ...], within: str) -> None:
    common = {
        "record": "run", "image": "golang", "image_layers": 7, "image_bytes": 305_000_000, "wall_seconds": 6.5,
        "last_byte_seconds": 6.3, "line_bytes": 305_000_000, "latency_seconds": 0.02, "rate_bytes": 5e7,
    }  # fmt: skip
    records = [
        {**common, "arm": arm, "repeat": repeat, "tail_seconds": tail}
        for repeat, tail in enumerate(tails, 1)
        for arm in ("imgpull-library", "podman")
    ]
    text = shaped_table([*records, {"record": "absent", "arm": "crane", "reason": "crane not on PATH"}])
    assert text.startswith("golang, 7 layers, 305.0 MB · 1 pull through 20 ms and 50 MB/s · 3 rounds")
    (ours,) = (line for line in text.splitlines() if line.startswith("imgpull-library"))
    assert ours.split()[-1] == within
    assert "not here: crane: crane not on PATH" in text
