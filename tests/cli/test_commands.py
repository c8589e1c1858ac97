"""The verbs from end to end: what a user types, and what comes of it."""

from __future__ import annotations

import json
import os
import signal
import stat
import tarfile

import pytest

from fakes import images
from fakes.registry import FakeRegistry

from .conftest import Command

LAYERS: list[images.Files] = [
    {"etc/": None, "etc/os-release": "ID=fake\n", "old": b"x"},
    {".wh.old": b"", "data": images.random_bytes(50_000)},
]


@pytest.fixture
def image() -> images.Image:
    return images.build(LAYERS, config={"Env": ["A=b"], "Cmd": ["sh"]})


def test_pull_look_unpack_tag_remove(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    reference = registry.add(image, "acme/api", "v3")
    pulled = command("--json", "-q", "pull", reference)
    assert (pulled.code, pulled.err) == (0, "")
    (entry,) = pulled.document
    sizes = [len(layer.blob) for layer in image.layers]
    assert (entry["reference"], entry["digest"], entry["manifest_digest"]) == (reference, image.digest, image.digest)
    assert entry["size_bytes"] == sum(sizes) + len(image.config) + len(image.raw)
    assert entry["fetched_bytes"] >= sum(sizes)
    assert [layer["diff_id"] for layer in entry["layers"]] == list(image.diff_ids)
    assert [layer["state"] for layer in entry["layers"]] == ["fetched", "fetched"]
    assert entry["layers"][-1]["chain_id"] == entry["chain_id"]

    again = command("--json", "pull", reference).document[0]
    assert [layer["state"] for layer in again["layers"]] == ["exists", "exists"]
    assert again["fetched_bytes"] == 0

    assert command("-q", "images").out == f"{reference}\n"
    assert command("--json", "inspect", reference).document["config"]["env"] == ["A=b"]
    target = command.home / "rootfs"
    assert command("unpack", reference, str(target)).code == 0
    assert sorted(path.name for path in target.iterdir()) == ["data", "etc"]
    assert command("unpack", reference, str(target)).code == 1

    other = f"{registry.address}/acme/api:stable"
    assert command("tag", reference, other).code == 0
    assert command("rmi", reference).code == 0
    assert command("-q", "images").out == f"{other}\n"
    assert command("inspect", reference).code == 3


def test_policies_without_a_registry(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    reference = registry.add(image)
    assert command("-q", "pull", "--policy", "never", reference).code == 7
    assert registry.requests == []
    assert command("-q", "pull", "--no-unpack", reference).out == f"{reference}@{image.digest}\n"
    assert not (command.home / "rootfs").exists()
    registry.forget()
    assert command("-q", "pull", "--policy", "missing", "--no-unpack", reference).code == 0
    assert command("-q", "pull", "--policy", "missing", reference).code == 0  # unpacks what is here
    assert registry.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root leaves nothing out")
def test_an_ordinary_user_is_told_what_is_left_out(command: Command, registry: FakeRegistry) -> None:
    null = tarfile.TarInfo("dev/null")
    null.type, null.devmajor, null.devminor = tarfile.CHRTYPE, 1, 3
    secret = images.Node(b"s", mode=0, xattrs={"security.capability": "x"})
    reference = registry.add(images.build([{"dev/": None, "dev/null": null, "locked/": None, "secret": secret}]))
    ran = command("pull", reference)
    assert ran.code == 0
    last = ran.err.splitlines()[-1]
    assert last == f"{reference}: unpacked without 1 device (not root), 4 owners (not root), 1 xattr (not root)"
    target = command.home / "rootfs"
    assert command("unpack", reference, str(target)).code == 0
    assert sorted(path.name for path in target.rglob("*")) == ["dev", "locked", "secret"]
    assert stat.S_IMODE((target / "secret").stat().st_mode) == 0


def test_timeout(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    reference = registry.add(image)
    gate = registry.block(image.layers[1].digest)
    ran = command("-q", "pull", "--timeout", "0.5", reference)
    gate.open()
    assert ran.code == 6
    assert reference in ran.error


def test_dropped_blobs_are_told(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    reference = registry.add(image)
    assert command("pull", "--content", "drop", reference).code == 0
    [shown] = json.loads(command("--json", "images").out)
    assert shown["content"] == "drop"
    blobs = command.store / "blobs" / "sha256"
    assert not any((blobs / layer.digest.removeprefix("sha256:")).exists() for layer in image.layers)
    assert command("unpack", reference, str(command.home / "rootfs")).code == 0


def test_json_is_one_document_whatever_the_verb(command: Command, registry: FakeRegistry, image: images.Image) -> None:
    reference = registry.add(image, "acme/api", "v3")
    assert json.loads(command("--json", "pull", "UPPER").out) == []
    assert command("pull", reference).code == 0
    new = {"reference": reference, "new": "docker.io/library/mine:latest"}
    assert json.loads(command("--json", "tag", reference, "mine").out) == new
    assert json.loads(command("--json", "rmi", "mine").out) == ["docker.io/library/mine:latest"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_served_store_can_be_pulled_from(
    command: Command, registry: FakeRegistry, image: images.Image, number: signal.Signals
) -> None:
    assert command("pull", registry.add(image, "acme/api", "v3")).code == 0
    server = command.begin("-q", "serve")
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    second = Command(command.home / "second")
    second.home.mkdir()
    # The store's name has a port in it, which no repository name can: it answers as what follows the domain.
    reference = f"{address}/acme/api:v3"
    assert second("-q", "pull", reference).out == f"{reference}@{image.digest}\n"
    os.kill(server.pid, number)
    ran = command.finish(server)
    assert (ran.code, ran.err) == (0, "")
