"""The verbs about the local store."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgpull.cli.local import _address
from imgpull.oci import Platform

from .conftest import Run, World, digest, make_image

REDIS = "docker.io/library/redis:7.2"


def test_images_is_a_table(world: World, run: Run) -> None:
    assert run("images").out == "REFERENCE  PLATFORM  DIGEST  LAYERS  SIZE\n"
    world.images.append(make_image("redis:7.2"))
    assert run("images").out.splitlines() == [
        "REFERENCE                    PLATFORM     DIGEST        LAYERS  SIZE",
        "docker.io/library/redis:7.2  linux/amd64  111111111111  2       45.1 MB",
    ]
    assert run("-q", "images").out == f"{REDIS}\n"
    document = run("images", "--json").document
    assert [(image["reference"], len(image["layers"]), image["unpacked"]) for image in document] == [(REDIS, 2, True)]


def test_inspect_shows_an_image_and_nothing_drives_the_terminal(world: World, run: Run) -> None:
    world.images.append(make_image("redis:7.2"))
    ran = run("inspect", "--platform", "linux/amd64", "redis:7.2")
    assert world.done == [("get", "redis:7.2", Platform.parse("linux/amd64"))]
    lines = ran.out.splitlines()
    assert f"{'manifest_digest:':<17}{digest('2')}" in lines
    assert f"{'unpacked:':<17}yes" in lines
    assert f"{'env:':<17}A=b" in lines
    assert f"{'cmd:':<17}'redis server'" in lines
    assert f"{'labels:':<17}who=me\\x1b[31m" in lines
    assert f"{'layer:':<17}{digest('a')}  1.0 kB" in lines
    document = run("--json", "inspect", "redis:7.2").document
    assert document["config"]["labels"] == {"who": "me\x1b[31m"}
    assert document["config"]["entrypoint"] is None
    assert document["layers"][1]["chain_id"] == digest("b")


def test_inspect_of_nothing(run: Run) -> None:
    ran = run("inspect", "redis:7.2")
    assert (ran.code, ran.error) == (3, "no image redis:7.2; pull it first")


def test_tag(world: World, run: Run) -> None:
    assert run("tag", "redis:7.2", "other:1").code == 0
    assert world.done == [("tag", "redis:7.2", "other:1")]


def test_rmi_goes_on_and_gives_the_highest_code(world: World, run: Run) -> None:
    world.images += [make_image("redis:7.2"), make_image("other:1")]
    ran = run("--json", "rmi", "redis:7.2", "missing", "other:1")
    assert (ran.code, world.images) == (3, [])
    assert ran.document == ["docker.io/library/redis:7.2", "docker.io/library/other:1"]
    assert "imgpull: error: no image missing; pull it first\n" in ran.err


def test_unpack(world: World, run: Run, tmp_path: Path) -> None:
    world.images.append(make_image("redis:7.2"))
    ran = run("unpack", "redis:7.2", str(tmp_path / "rootfs"))
    assert world.done[-1] == ("unpack", REDIS, tmp_path / "rootfs")
    assert (ran.out, ran.err) == ("", f"{REDIS} is in {tmp_path / 'rootfs'}\n")
    document = run("--json", "unpack", "redis:7.2", str(tmp_path / "rootfs")).document
    assert document == {"reference": REDIS, "chain_id": digest("b"), "directory": str(tmp_path / "rootfs")}


@pytest.mark.parametrize("verb", [["inspect", "x"], ["rmi", "x"], ["unpack", "x", "y"]])
def test_malformed_platform(world: World, run: Run, verb: list[str]) -> None:
    ran = run(*verb, "--platform", "a/b/c/d")
    assert ran.code == 2
    assert "a/b/c/d" in ran.error
    assert world.images == []


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:5000", ("::1", 5000)), (":80", ("127.0.0.1", 80))],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    assert _address(text) == address


@pytest.mark.parametrize("text", ["127.0.0.1", "x:y", "x:99999", "x:-1", "x:²", ""])
def test_malformed_address(run: Run, text: str) -> None:
    ran = run("serve", "--addr", text)
    assert ran.code == 2
    assert "HOST:PORT" in ran.error
