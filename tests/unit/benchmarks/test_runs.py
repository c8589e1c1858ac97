"""The order of runs, and what travels between the processes that make them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.baselines import ARMS, arm_called
from benchmarks.measure import MeasureError, Spec, measure
from benchmarks.origin import Origin, Served, parse_access_log
from benchmarks.processes import measure_processes, reference_seconds
from benchmarks.scenarios import interleaved
from benchmarks.volume import Volume


def spec(**changed: object) -> Spec:
    fields = {"scenario": "compare", "arm": "convoy", "image": "demo", "references": ("a", "b"), "pulls": 2,
              "repeat": 1, "store": "/nowhere"}  # fmt: skip
    return Spec(**{**fields, **changed})  # type: ignore[arg-type]


def test_each_repeat_runs_every_arm_and_begins_with_another() -> None:
    order = list(interleaved(["a", "b", "c"], 4))
    assert order[:6] == [(1, "a"), (1, "b"), (1, "c"), (2, "b"), (2, "c"), (2, "a")]
    assert [arm for _, arm in order[9:]] == ["a", "b", "c"]


def test_a_spec_survives_the_way_to_its_process() -> None:
    assert Spec.from_json(spec(timeline=True).to_json()) == spec(timeline=True)


def test_only_answered_blob_gets_are_counted() -> None:
    log = (
        '127.0.0.1 - - [24/Nov/2026] "GET /v2/redis/blobs/sha256:aa HTTP/1.1" 200 100 "" "imgpull"\n'
        '127.0.0.1 - - [24/Nov/2026] "GET /v2/redis/blobs/sha256:aa HTTP/1.1" 206 50 "" "imgpull"\n'
        '127.0.0.1 - - [24/Nov/2026] "HEAD /v2/redis/blobs/sha256:aa HTTP/1.1" 200 100 "" "imgpull"\n'
        '127.0.0.1 - - [24/Nov/2026] "GET /v2/redis/blobs/sha256:bb HTTP/1.1" 404 157 "" "imgpull"\n'
        '127.0.0.1 - - [24/Nov/2026] "HEAD /v2/redis/manifests/latest HTTP/1.1" 200 900 "" "imgpull"\n'
        '127.0.0.1 - - [24/Nov/2026] "HEAD /v2/redis/manifests/gone HTTP/1.1" 404 157 "" "imgpull"\n'
        '127.0.0.1 - - [24/Nov/2026] "GET /v2/redis/manifests/latest HTTP/1.1" 200 900 "" "imgpull"\n'
    )
    assert parse_access_log(log) == Served(blob_gets=2, bytes=150, manifest_heads=1)
    assert parse_access_log(log).since(Served(1, 50, 1)) == {
        "blob_gets": 1,
        "bytes_fetched": 100,
        "manifest_heads": 0,
    }


def test_a_registry_behind_a_line_is_asked_at_the_lines_end() -> None:
    served = Origin("docker-registry", "127.0.0.1:5000", ("127.0.0.1:5000/redis:latest",))
    behind = served.behind("127.0.0.1:6000", "20 ms")
    assert (behind.address, behind.references) == ("127.0.0.1:6000", ("127.0.0.1:6000/redis:latest",))
    assert behind.description == "docker-registry behind 20 ms"


def test_a_run_that_takes_too_long_is_ended() -> None:
    with pytest.raises(MeasureError, match="not done within 0 s"):
        measure(spec(), timeout_seconds=0.001)


def test_processes_are_measured_by_one_pull_and_all_imports() -> None:
    assert reference_seconds(0.75, 20, 0.1, 2) == 1.75


def test_the_convoy_can_not_be_made_of_processes() -> None:
    with pytest.raises(MeasureError, match="one process"):
        measure_processes(spec(), Origin("", "", ("a",)), dropped=False)


def test_arms_are_known_by_name() -> None:
    assert list(ARMS) == ["suppression", "backoff", "convoy"]
    with pytest.raises(KeyError, match="suppression, backoff, convoy"):
        arm_called("magic")


def test_a_volume_without_a_mount_is_emptied_and_says_what_it_is(tmp_path: Path) -> None:
    volume = Volume(tmp_path, None, 0)
    (volume.store / "blobs").mkdir(parents=True)
    assert volume.wipe() == tmp_path / "store"
    assert list(tmp_path.iterdir()) == []
    assert "no loop mount" in volume.description
