"""Peers that are shell scripts: the order of runs, what is counted, and that a failure stops nobody else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.layout import LayerFacts
from benchmarks.origin import Origin
from benchmarks.peers import PEERS
from benchmarks.peers.cost import cost_of, last_line, usage_of
from benchmarks.peers.daemons import Containerd
from benchmarks.peers.peer import PeerError, Place, Ready
from benchmarks.peers.rounds import Conditions, Rounds, versions_of
from benchmarks.peers.single import CurlAndTar, Podman, SkopeoAndUmoci
from benchmarks.peers.table import peers_table, processor, ratios
from benchmarks.scenarios import Setting
from benchmarks.volume import Volume, VolumeError
from fakes.threads import until

REFERENCE = "127.0.0.1:1/redis:latest"


@dataclass
class Programs:
    """Scripts that write down how they were called, and fail when told."""

    folder: Path

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def add(self, name: str, then: str = "") -> None:
        script = self.folder / name
        script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{name} 1.2" && exit\n'
                          f'echo "{name} $*" >>{self.folder}/log\n{then}\n')  # fmt: skip
        script.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return Programs(folder)


@dataclass(frozen=True)
class Command:
    """A peer of one command."""

    name: str
    command: tuple[str, ...]
    programs = ()
    note = ""

    def absent(self, place: Place) -> str:
        return ""

    @contextmanager
    def ready(self, place: Place) -> Iterator[Ready]:
        assert list(place.directory.iterdir()) == []
        (place.directory / "left behind").touch()
        yield Ready([[self.command]] * place.pulls)


@dataclass
class Run:
    rounds: Rounds
    records: list[dict[str, Any]]

    def of(self, *peers: Any, pulls: int = 1, rounds: int = 1) -> list[dict[str, Any]]:
        self.rounds.run(peers, [pulls], rounds, self.records.append)
        return self.records


@pytest.fixture
def run(tmp_path: Path) -> Run:
    volume = tmp_path / "volume"
    volume.mkdir()
    log = tmp_path / "access.log"
    log.touch()
    served = Origin("fake", "127.0.0.1:1", (REFERENCE,), log)
    return Run(Rounds(Setting("redis", ()), served, Volume(volume, None, 0), (), Conditions(60)), [])


def test_each_round_runs_every_peer_on_an_empty_place(programs: Programs, run: Run) -> None:
    for name in ("a", "b", "c"):
        programs.add(name)
    records = run.of(*(Command(name, (name,)) for name in ("a", "b", "c")), rounds=3)
    assert [line.strip() for line in programs.log] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [(record["arm"], record["repeat"]) for record in records[:4]] == [("a", 1), ("b", 1), ("c", 1), ("b", 2)]
    assert all(record["record"] == "run" and record["wall_seconds"] > 0 for record in records)


def test_pulls_start_together_and_each_has_its_own_state(programs: Programs, run: Run) -> None:
    programs.add("skopeo")
    programs.add("umoci")
    (record,) = run.of(SkopeoAndUmoci(), pulls=3)
    assert record["pulls"] == 3
    unpacked = [line.split()[-1].rpartition("/")[2] for line in programs.log if line.startswith("umoci")]
    assert sorted(unpacked) == ["bundle-0", "bundle-1", "bundle-2"]
    fetched = [index for index, line in enumerate(programs.log) if line.startswith("skopeo")]
    assert fetched[0] == 0
    assert len(fetched) == 3


def test_a_failure_is_told_with_the_last_line_and_stops_nobody(programs: Programs, run: Run) -> None:
    programs.add("skopeo")
    programs.add("umoci", "echo 'first line' >&2; echo 'umoci: no space left' >&2; echo >&2; exit 3")
    programs.add("podman")
    records = run.of(SkopeoAndUmoci(), Podman(), rounds=2)
    assert [record["record"] for record in records] == ["failure", "run", "run", "failure"]
    assert records[0]["error"] == "umoci: no space left"
    text = peers_table(records)
    assert "failed, round 1: skopeo+umoci: umoci: no space left" in text
    assert "user+sys ÷ podman" in text


def test_a_silent_failure_names_program_and_status(programs: Programs, run: Run) -> None:
    programs.add("podman", "exit 125")
    (record,) = run.of(Podman())
    assert record["error"] == "podman ended with status 125"


def test_a_program_that_does_not_start_is_a_failure(run: Run) -> None:
    (record,) = run.of(Command("a", ("/no/such/program",)))
    assert record["error"] == "/no/such/program: No such file or directory"


def test_a_lane_ends_with_its_first_failure(programs: Programs, run: Run) -> None:
    programs.add("skopeo", "exit 1")
    programs.add("umoci")
    run.of(SkopeoAndUmoci())
    assert [line.split()[0] for line in programs.log] == ["skopeo"]


def ended(pid: str) -> bool:
    """Gone, or dead and not yet waited for by whoever inherited it."""
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_who_takes_too_long_is_ended_with_all_its_children(programs: Programs) -> None:
    programs.add("slow", f"echo $$ >{programs.folder}/pid; sleep 300 & echo $! >>{programs.folder}/pid; wait")
    with pytest.raises(PeerError, match="not done within 2 s"):
        cost_of(Ready([[["slow"]]]), timeout_seconds=2)
    for pid in (programs.folder / "pid").read_text().split():
        until(partial(ended, pid), f"process {pid} has ended")


def test_who_is_not_here_is_told_and_not_run(programs: Programs, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs.folder))
    programs.add("skopeo")
    records = run.of(SkopeoAndUmoci(), CurlAndTar())
    assert [(record["record"], record["reason"]) for record in records] == [
        ("absent", "umoci not on PATH"),
        ("absent", "it is told the layers of built images only"),
    ]
    assert not (programs.folder / "log").exists()
    assert "not here: skopeo+umoci: umoci not on PATH" in peers_table(records)


@pytest.mark.skipif(os.geteuid() != 0, reason="GNU tar is told to keep owners, which needs root")
def test_curl_and_tar_put_a_layer_down(tmp_path: Path, programs: Programs) -> None:
    from fakes.images import build_layer

    layer = build_layer({"a/": None, "a/file": b"hello"})
    (programs.folder / "served").write_bytes(layer.blob)
    programs.add("curl", f"cp {programs.folder}/served $3")
    place = Place(tmp_path / "place", REFERENCE, 1, (LayerFacts(layer.digest, layer.media_type),))
    place.directory.mkdir()
    with CurlAndTar().ready(place) as ready:
        cost_of(ready, 60)
        assert (place.directory / "rootfs-0/a/file").read_bytes() == b"hello"
        (programs.folder / "served").write_bytes(layer.blob + b"x")
    with pytest.raises(FileExistsError), CurlAndTar().ready(place):
        pass
    place = Place(tmp_path / "other", REFERENCE, 1, place.layers)
    place.directory.mkdir()
    with CurlAndTar().ready(place) as ready, pytest.raises(PeerError):
        cost_of(ready, 60)
    assert f"http://127.0.0.1:1/v2/redis/blobs/{layer.digest}" in programs.log[0]


DAEMON = """\
import os, signal, socket, sys, time
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    listening.accept()[0].close()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="the peer is for root on Linux")
def test_a_daemon_lives_for_the_run_and_its_client_is_told_where(programs: Programs, run: Run, tmp_path: Path) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    socket = "$(sed -n 's/ *address = //p' $2 | tr -d '\"')"
    programs.add("containerd", f"echo $$ >{programs.folder}/pid; exec {sys.executable} {tmp_path}/daemon.py {socket}")
    programs.add("ctr")
    (record,) = run.of(Containerd())
    assert record["record"] == "run", record
    assert record["max_rss_bytes"] > 5e6
    assert programs.log[1].startswith("ctr -a /") and programs.log[1].endswith(REFERENCE)
    assert not os.path.exists(f"/proc/{(programs.folder / 'pid').read_text().strip()}")


@pytest.mark.skipif(os.geteuid() != 0, reason="the peer is for root")
def test_a_daemon_that_ends_at_once_is_a_failure(programs: Programs, run: Run) -> None:
    programs.add("containerd", "echo 'containerd: bad config' >&2; exit 1")
    programs.add("ctr")
    (record,) = run.of(Containerd())
    assert (record["record"], record["error"]) == ("failure", "containerd: bad config")


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_the_usage_of_a_daemon_is_its_trees() -> None:
    mine = usage_of(os.getpid())
    assert mine.user_seconds > 0
    assert mine.max_rss_bytes > 1e7
    assert usage_of(None).max_rss_bytes == 0


def test_ratios_are_of_the_same_round() -> None:
    base = [{"repeat": 1, "wall_seconds": 1.0}, {"repeat": 2, "wall_seconds": 10.0}]
    runs = [{"repeat": 2, "wall_seconds": 20.0}, {"repeat": 1, "wall_seconds": 3.0}, {"repeat": 3, "wall_seconds": 9.0}]
    assert ratios(runs, base) == [2.0, 3.0]
    spent = {"repeat": 1, "user_seconds": 1.0, "system_seconds": 0.5}
    assert ratios([{**spent, "user_seconds": 2.5}], [spent], processor) == [2.0]


COMMON = {
    "record": "run", "scenario": "peers", "image": "redis", "pulls": 1, "image_bytes": 48_000_000, "image_layers": 6,
    "user_seconds": 1.0, "system_seconds": 0.5, "max_rss_bytes": 2e7, "note": "",
}  # fmt: skip


def test_the_tables_are_by_peer_with_imgpull_as_one() -> None:
    records = [
        {**COMMON, "arm": arm, "repeat": repeat, "wall_seconds": wall}
        for repeat, arm, wall in [
            (1, "podman", 2.0), (1, "imgpull", 1.0), (1, "imgpull-unsynced", 0.5),
            (2, "imgpull", 2.0), (2, "podman", 6.0), (2, "imgpull-unsynced", 1.0),
        ]
    ]  # fmt: skip
    lines = peers_table(records).splitlines()
    assert lines[0] == "redis, 6 layers, 48.0 MB · 1 pull into an empty store · 2 rounds: median (least–most)"
    (heading,) = (line for line in lines if "÷" in line)
    assert heading.index("real ÷ imgpull ") < heading.index("real ÷ imgpull-unsynced")  # full first, none beside it
    spent, compared = (line for line in lines if line.startswith("podman"))
    assert "4.00 s (2.00–6.00)" in spent
    assert "2.50 (2.00–3.00)  " in compared
    assert "5.00 (4.00–6.00)  " in compared


def test_counts_of_pulls_have_tables_of_their_own_and_processes_their_measure() -> None:
    alone = {**COMMON, "arm": "imgpull", "repeat": 1, "wall_seconds": 1.0, "scenario": "reference"}
    several = {**COMMON, "arm": "imgpull", "repeat": 1, "wall_seconds": 3.0, "pulls": 20}
    cold = {**COMMON, "arm": "imgpull-library", "repeat": 1, "wall_seconds": 1.0, "pulls": 5, "cold": True}
    imported = {"record": "import", "repeat": 1, "wall_seconds": 0.1}
    text = peers_table([{"record": "environment", "cpus": 2}, imported, alone, several, cold])
    assert "1 pull into" not in text  # it is there for comparison only
    assert "20 pulls at once into an empty store · 1 round" in text
    assert "5 pulls at once into an empty store, page cache dropped · 1 round" in text
    assert (
        "imgpull, 20 processes: 3.00 s; one pull and 20 × import imgpull ÷ 2 cores: 2.00 s; ratio 1.50"
        in text.splitlines()
    )


@dataclass(frozen=True)
class Clocked:
    """A peer that takes the time himself."""

    error: str = ""
    name = "clocked"
    programs = ()
    note = ""

    def absent(self, place: Place) -> str:
        return ""

    @contextmanager
    def ready(self, place: Place) -> Iterator[Ready]:
        def cost(timeout_seconds: float) -> dict[str, Any]:
            if self.error:
                raise PeerError(self.error)
            return {"wall_seconds": timeout_seconds}

        yield Ready((), own_cost=cost)


def test_who_takes_the_time_himself_is_believed(run: Run) -> None:
    run.of(Clocked())
    done, failed = run.of(Clocked("no"))
    assert (done["record"], done["wall_seconds"]) == ("run", 60)
    assert (failed["record"], failed["error"]) == ("failure", "no")


def test_only_root_drops_the_page_cache(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[bool] = []

    def drop() -> bool:
        dropped.append(True)
        return len(dropped) < 2

    monkeypatch.setattr("benchmarks.peers.rounds.drop_caches", drop)
    run.rounds._conditions = Conditions(60, cold=True)
    (record,) = run.of(Clocked())
    assert (record["cold"], dropped) == (True, [True])
    with pytest.raises(VolumeError, match="only root may drop the page cache"):
        run.of(Clocked())


def test_several_processes_have_one_beside_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.rounds.cost_of", lambda ready, _: {"wall_seconds": float(len(ready.lanes))})
    monkeypatch.setattr("benchmarks.peers.rounds.import_seconds", lambda: 0.25)
    records = run.of(PEERS["imgpull"], pulls=3, rounds=2)
    assert [record["wall_seconds"] for record in records if record["record"] == "import"] == [0.25, 0.25]
    made = [(record["scenario"], record["pulls"]) for record in records if record["record"] == "run"]
    assert sorted(made) == [("peers", 3), ("peers", 3), ("reference", 1), ("reference", 1)]


def test_versions_and_last_lines(programs: Programs, tmp_path: Path) -> None:
    programs.add("podman")
    assert versions_of([Podman(), SkopeoAndUmoci()])["podman"] == "podman 1.2"
    assert last_line(tmp_path / "nothing") == ""


def test_peers_have_names_of_their_own() -> None:
    assert list(PEERS)[:2] == ["imgpull", "imgpull-unsynced"]
    assert all(name == peer.name for name, peer in PEERS.items())
