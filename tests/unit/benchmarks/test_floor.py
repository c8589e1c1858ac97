"""The floor: what is derived from the stages, the bare tar loop, and the stages on a small image."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.floor.apply import UnsafeNameError, apply, headers, refuse_unsafe
from benchmarks.floor.run import floor_of
from benchmarks.floor.stages import STAGES, Order, perform
from benchmarks.floor.table import floor_table
from imgpull.serve import Server

LONG = "d/" + "n" * 150
MTIME = 1_700_000_000


def tar_of(*members: tuple[str, bytes, str | bytes], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    """Name, kind, and data or target."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as archive:
        for name, kind, rest in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = kind, 0o750 if kind == tarfile.DIRTYPE else 0o640, MTIME
            member.uid, member.gid = os.getuid(), os.getgid()
            if isinstance(rest, str):
                member.linkname = rest
                archive.addfile(member)
            else:
                member.size = len(rest)
                archive.addfile(member, io.BytesIO(rest))
    return raw.getvalue()


TREE = (
    ("d", tarfile.DIRTYPE, ""),
    ("d/file", tarfile.REGTYPE, b"x" * 1000),
    ("d/link", tarfile.LNKTYPE, "d/file"),
    ("d/symbolic", tarfile.SYMTYPE, "file"),
    (LONG, tarfile.REGTYPE, b"long"),
    ("implied/parent/файл", tarfile.REGTYPE, b""),
    ("d/file", tarfile.REGTYPE, b"again"),
    ("d/fifo", tarfile.FIFOTYPE, ""),
    ("d/below", tarfile.LNKTYPE, "of/a/lower/layer"),
)


@pytest.mark.parametrize("written", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_an_archive_is_put_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    monkeypatch.chdir(tmp_path)
    tar = tar_of(*TREE, format=written)
    assert refuse_unsafe(tar) == len(TREE)
    assert apply(tar, owners=os.geteuid() == 0) == 2  # the FIFO, and the link into a lower layer
    assert Path("d/file").read_bytes() == b"again"
    assert Path("d/link").read_bytes() == b"x" * 1000
    assert os.readlink("d/symbolic") == "file"
    assert Path(LONG).read_bytes() == b"long"
    assert Path("implied/parent/файл").read_bytes() == b""
    for name, mode in (("d", 0o750), ("d/file", 0o640)):
        found = os.stat(name)
        assert (found.st_mode & 0o7777, found.st_mtime_ns) == (mode, MTIME * 10**9)


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/passwd", tarfile.REGTYPE, b"")],
        [("a/../../b", tarfile.REGTYPE, b"")],
        [("a", tarfile.SYMTYPE, "/etc"), ("a/b", tarfile.REGTYPE, b"")],
        [("a", tarfile.LNKTYPE, "/etc/passwd")],
        [("./a", tarfile.SYMTYPE, "/etc"), ("a//b", tarfile.REGTYPE, b"")],
        [("s", tarfile.SYMTYPE, "/etc"), ("a", tarfile.LNKTYPE, "s"), ("a/b", tarfile.REGTYPE, b"")],
        [("s", tarfile.SYMTYPE, "/etc"), ("a", tarfile.LNKTYPE, "s/passwd")],
    ],
)
def test_a_name_that_could_lead_out_is_refused(members: list[tuple[str, bytes, str | bytes]]) -> None:
    with pytest.raises(UnsafeNameError, match="could lead out"):
        refuse_unsafe(tar_of(*members))


def test_headers_say_what_tarfile_says() -> None:
    tar = tar_of(*TREE)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        expected = [(one.name, one.size, one.offset_data if one.size else 0) for one in archive.getmembers()]
    assert [(one.name.decode(), one.size, one.at if one.size else 0) for one in headers(tar)] == expected


def stage(**layers: float) -> dict[str, Any]:
    return {"layers": [{"digest": digest, "cpu_seconds": spent} for digest, spent in layers.items()]}


def test_the_floor_is_all_work_on_two_cores_or_the_longest_chain() -> None:
    even = {"receive": stage(a=1.0, b=1.0, config=0.5), "apply": stage(a=2.0, b=1.5)}
    assert floor_of(even, cores=8) == {
        "cpu_seconds": 6.0,
        "chain_seconds": 3.0,
        "cores": 2,
        "floor_seconds": 3.0,
        "bound": "cpu",
    }
    assert floor_of(even, cores=1)["floor_seconds"] == 6.0
    uneven = {"receive": stage(a=1.0, b=0.1), "apply": stage(a=4.0, b=0.1)}
    assert (floor_of(uneven, 2)["floor_seconds"], floor_of(uneven, 2)["bound"]) == (5.0, "chain")


@pytest.mark.parametrize("compression", ["gzip", "two members", "zstd", "none"])
def test_every_stage_of_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str) -> None:
    from backports import zstd

    tar = tar_of(*TREE)
    blob = {
        "gzip": gzip.compress(tar),
        "two members": gzip.compress(tar[:700]) + gzip.compress(tar[700:]),
        "zstd": zstd.compress(tar),
        "none": tar,
    }[compression]
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    (tmp_path / "blob").write_bytes(blob)
    monkeypatch.chdir(tmp_path)  # apply changes it
    for name in STAGES[1:]:
        order = Order(name, ((digest, str(tmp_path / "blob")),), directory=str(tmp_path))
        result = perform(Order.from_json(order.to_json()))
        (layer,) = result["layers"]
        assert (layer["digest"], layer["bytes"]) == (digest, len(blob) if name == "digest" else len(tar))
        assert result["entries"] == (len(TREE) if name == "apply" else 0)
    assert (tmp_path / digest.removeprefix("sha256:") / "d/file").read_bytes() == b"again"


def test_blobs_are_received_from_a_registry(tmp_path: Path) -> None:
    from benchmarks.layers import LayerWriter
    from benchmarks.layout import build_layout, facts_of

    def write(layout: Any) -> Any:
        with LayerWriter(layout.blobs, "gzip", "one") as writer:
            writer.file("a", b"hello")
            return [writer.finish()]

    build_layout(tmp_path / "image", write, "image:latest", {}, "recipe 1")
    facts = facts_of(tmp_path / "image")
    (tmp_path / "to").mkdir()
    with Server(tmp_path / "image") as server:
        blobs = tuple((digest, "") for digest in facts.blob_sizes)
        result = perform(Order("receive", blobs, server.address, "image", str(tmp_path / "to")))
    assert [layer["bytes"] for layer in result["layers"]] == list(facts.blob_sizes.values())
    for digest in facts.blob_sizes:
        name = digest.removeprefix("sha256:")
        assert hashlib.sha256((tmp_path / "to" / name).read_bytes()).hexdigest() == name


def test_the_table_has_stages_bounds_and_the_ratio() -> None:
    common = {"image": "redis", "image_layers": 6, "image_bytes": 48_000_000, "scenario": "floor"}
    records: list[dict[str, Any]] = []
    for repeat, ratio in ((1, 1.2), (2, 1.4), (3, 1.3)):
        for name in STAGES:
            entries = {"entries": 7 if name == "apply" else 0}
            sums = {"cpu_seconds": 0.5, "wall_seconds": 0.6, "bytes": 10**8}
            records.append({**common, "record": "stage", "stage": name, "repeat": repeat, **sums, **entries})
        derived = {"cpu_seconds": 2.5, "cores": 2, "chain_seconds": 1.0, "floor_seconds": 1.25, "durability": "none"}
        pull = {"imgpull_wall_seconds": 1.5, "imgpull_cpu_seconds": 2.0, "ratio": ratio}
        records.append({**common, "record": "floor", "repeat": repeat, **derived, **pull})
    text = floor_table(records)
    assert text.startswith("redis, 6 layers, 48.0 MB · 3 rounds: median (least–most)")
    assert "apply the tars (7 entries)" in text
    (inflate,) = (line for line in text.splitlines() if line.startswith("inflate"))
    assert inflate.split()[-2:] == ["100.0", "200"]  # MB, and MB a second of processor time
    (ratio_line,) = (line for line in text.splitlines() if line.startswith("imgpull ÷ floor"))
    assert ratio_line.endswith("1.30 (1.20–1.40)")
