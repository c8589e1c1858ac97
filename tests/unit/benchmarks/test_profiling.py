"""Where the time goes: clocks that add up, points that lead somewhere, and what strace writes."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.profiling.child import by_name, held_seconds
from benchmarks.profiling.probes import DETACHED, POINTS, Point, Probes, missing_points
from benchmarks.profiling.syscalls import parse_counts, syscalls_of
from benchmarks.profiling.table import profile_table


def test_every_point_is_in_imgpull() -> None:
    """One that is renamed is renamed here, or its time is counted with what calls it."""
    assert missing_points() == []
    assert {point.stage for point in POINTS} >= set(DETACHED)


class Clock:
    """Goes on by what the probed functions say."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_probed_within_is_taken_off() -> None:
    wall, cpu = Clock(), Clock()
    probes = Probes(wall, cpu)

    def inner() -> str:
        wall.now += 2.0
        cpu.now += 0.5
        return "done"

    timed_inner = probes.timed("inner", inner)

    def outer() -> str:
        wall.now += 1.0
        cpu.now += 1.0
        return str(timed_inner()) + str(timed_inner())

    assert probes.timed("outer", outer)() == "donedone"
    assert probes.stages == {"inner": [2, 4.0, 1.0], "outer": [1, 1.0, 1.0]}


def test_a_call_that_raises_is_counted_and_raises() -> None:
    probes = Probes()

    def fail() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        probes.timed("failing", fail)()
    assert probes.stages["failing"][0] == 1


def test_points_and_threads_are_as_before_afterwards() -> None:
    from imgpull.oci import Digest
    from imgpull.store.database.writer import GroupWriter

    before = Digest.hasher, GroupWriter._commit, threading.Thread.run
    probes = Probes()
    with probes.installed():
        assert Digest.hasher is not before[0]
        hasher = Digest.of_bytes(b"").hasher()
        hasher.update(b"data")
        assert hasher.hexdigest() == Digest.of_bytes(b"data").encoded
        thread = threading.Thread(target=lambda: None, name="worker-1")
        thread.start()
        thread.join()
    assert (Digest.hasher, GroupWriter._commit, threading.Thread.run) == before
    assert probes.stages["digest"][0] == 1
    assert [name for name, _, _ in probes.threads] == ["worker-1"]


def test_a_point_that_leads_nowhere_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = (Point("gone", "imgpull.nothing", "Here"), Point("gone", "imgpull.oci.digest", "Digest.nothing"))
    with Probes().installed(gone):
        pass
    monkeypatch.setattr("benchmarks.profiling.probes.POINTS", gone)
    assert missing_points() == ["imgpull.nothing:Here", "imgpull.oci.digest:Digest.nothing"]


def test_threads_of_one_kind_are_one_row() -> None:
    threads = [("imgpull-fetch-1", 1.0, 0.5), ("imgpull-fetch-12", 2.0, 0.5), ("imgpull-writer", 1.0, 0.0)]
    assert by_name(threads) == {"imgpull-fetch": [2, 3.0, 1.0], "imgpull-writer": [1, 1.0, 0.0]}


def test_c_code_that_lets_go_is_not_held() -> None:
    stages = {"inflate": [10.0, 2.0, 1.0], "digest": [10.0, 1.0, 0.5], "parse and apply": [1.0, 9.0, 9.0]}
    assert held_seconds(2.5, stages) == 1.0
    assert held_seconds(1.0, stages) == 0.0


STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 59.64    0.105270          31      3327       277 futex
 12.11    0.021372           7      2913           openat
  0.00    0.000000           0         1         1 access
------ ----------- ----------- --------- --------- ----------------
100.00    0.176508          18      6241       278 total
"""


def test_the_table_of_strace() -> None:
    assert parse_counts(STRACE) == {"futex": 3327, "openat": 2913, "access": 1}
    assert parse_counts("") == {}


def test_without_strace_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.measure import Spec

    monkeypatch.setenv("PATH", "/nowhere")
    assert syscalls_of(Spec("profile", "suppression", "demo", ("a",), 1, 1, "/nowhere")) is None


def record(**changed: Any) -> dict[str, Any]:
    fields = {
        "record": "profile", "image": "redis", "image_layers": 6, "image_bytes": 48_000_000, "repeat": 1,
        "durability": "none", "entries": 100, "wall_seconds": 2.0, "user_seconds": 2.0, "system_seconds": 1.0,
        "gil_seconds": 0.5, "missing": [], "threads": {"imgpull-unpack": [2, 3.0, 2.5]},
        "stages": {"inflate": [9, 1.5, 1.0], "parse and apply": [6, 2.0, 1.2], "digest": [9, 0.5, 0.5]},
    }  # fmt: skip
    return {**fields, **changed}


def test_the_tables_say_where_it_goes_and_what_would_lift_the_limit() -> None:
    calls = {"record": "syscalls", "entries": 100, "calls": {"openat": 150, "write": 50}}
    slow, quick = record(wall_seconds=9.0), record(wall_seconds=1.0)
    text = profile_table([slow, record(missing=["imgpull.x:Y"]), quick, calls])
    lines = SimpleNamespace(of=lambda start: next(line for line in text.splitlines() if line.startswith(start)))
    assert "wall 2.00 s, user 2.00 s, system 1.00 s" in text  # the median round, whole
    assert lines.of("parse and apply").endswith("40 %")
    assert lines.of("everything else").split()[-4:] == ["0.300", "s", "10", "%"]
    assert "held 0.50 s of 2.00 s wall and 3.00 s CPU" in text
    assert "waited after inflate and digest for the lock or for a core, all threads: 0.50 s" in text
    assert "the limit from 6.0 cores on" in text
    assert "less Python in 'parse and apply' (1.20 s of CPU" in text
    assert lines.of("openat").split() == ["openat", "150", "1.50"]
    assert lines.of("all ").split() == ["all", "200", "2.00"]
    assert "not found, so counted with what calls it: imgpull.x:Y" in text


def test_without_calls_the_table_says_so() -> None:
    text = profile_table([record(gil_seconds=0.0), {"record": "syscalls", "entries": 100, "calls": None}])
    assert "system calls: not measured" in text
    assert "limit from" not in text
