"""Whatever is wrong, the command says so in one line, with the exit code of the contract, and leaves nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from fakes import images
from fakes.registry import FakeRegistry, Reply, Request, corrupted, refused, truncated

from .conftest import Command

Setup = Callable[[FakeRegistry], str]
FILES: images.Files = {"etc/": None, "etc/os-release": "ID=fake\n", "data": images.random_bytes(50_000)}


def unknown_host(_: FakeRegistry) -> str:
    return "registry.invalid/redis:7.2"  # RFC 2606: this name never resolves


def refused_connection(_: FakeRegistry) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}/redis:7.2"


def missing_manifest(registry: FakeRegistry) -> str:
    return f"{registry.address}/redis:7.2"


def missing_blob(registry: FakeRegistry) -> str:
    image = images.build([FILES])
    reference = registry.add(image)
    registry.remove_blob(image.layers[0].digest)
    return reference


def unauthorized(registry: FakeRegistry) -> str:
    registry.always("*", "/v2/", refused(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"'))
    return f"{registry.address}/redis:7.2"


def denied(registry: FakeRegistry) -> str:
    registry.always("*", "/v2/", refused(403))
    return f"{registry.address}/redis:7.2"


def failing(registry: FakeRegistry) -> str:
    registry.always("*", "/v2/", refused(500, "UNKNOWN", "two\nlines \x1b[31mred"))
    return f"{registry.address}/redis:7.2"


def wrong_layer(registry: FakeRegistry) -> str:
    image = images.build([FILES])
    registry.always("GET", image.layers[0].digest, corrupted(30_000))
    return registry.add(image)


def wrong_config(registry: FakeRegistry) -> str:
    image = images.build([FILES])
    registry.always("GET", image.config_digest, corrupted(1))
    return registry.add(image)


def wrong_manifest(registry: FakeRegistry) -> str:
    image = images.build([FILES])
    registry.add(image, "redis")
    registry.always("GET", image.digest, corrupted(1))
    return f"{registry.address}/redis@{image.digest}"


def wrong_size(registry: FakeRegistry) -> str:
    layer = images.build_layer(FILES)
    image = images.build([layer])
    size = len(layer.blob)
    shorter = replace(image, raw=image.raw.replace(b'"size": %d' % size, b'"size": %d' % (size - 1)))
    assert shorter.raw != image.raw
    return registry.add(shorter)


def wrong_diff_id(registry: FakeRegistry) -> str:
    return registry.add(images.build([replace(images.build_layer(FILES), tar=b"another")]))


def no_tar(registry: FakeRegistry) -> str:
    data = images.random_bytes(10_000)
    return registry.add(images.build([images.Layer(images.compress(data, "gzip"), data, images.OCI_LAYER + "+gzip")]))


def damaged_gzip(registry: FakeRegistry) -> str:
    layer = images.build_layer(FILES)
    return registry.add(images.build([replace(layer, blob=layer.blob[:20_000])]))


def entry_that_leads_out(registry: FakeRegistry) -> str:
    return registry.add(images.build([{"../../outside": b"x"}]))


def two_meanings(registry: FakeRegistry) -> str:
    return registry.add(images.build([FILES], manifests=[]))


def no_manifest(registry: FakeRegistry) -> str:
    return registry.add_manifest(b'{"schemaVersion": 2', images.OCI_MANIFEST)


def other_platforms(registry: FakeRegistry) -> str:
    return registry.add(images.index({"windows/amd64": images.build([FILES], platform="windows/amd64")}))


FAILURES: list[tuple[Setup, int, str]] = [
    (unknown_host, 1, "registry.invalid"),
    (refused_connection, 1, "refused"),
    (missing_manifest, 3, "MANIFEST_UNKNOWN"),
    (missing_blob, 3, "BLOB_UNKNOWN"),
    (unauthorized, 4, "127.0.0.1"),
    (denied, 4, "DENIED"),
    (failing, 1, "500"),
    (wrong_layer, 5, "sha256:"),
    (wrong_config, 5, "sha256:"),
    (wrong_manifest, 5, "sha256:"),
    (wrong_size, 5, "bytes"),
    (wrong_diff_id, 5, "the image's config promises"),
    (no_tar, 1, "tar"),
    (damaged_gzip, 1, "gzip"),
    (entry_that_leads_out, 1, "outside"),
    (two_meanings, 1, "ambiguous"),
    (no_manifest, 1, "JSON"),
    (other_platforms, 3, "windows/amd64"),
]


@pytest.mark.parametrize(("setup", "code", "words"), FAILURES, ids=[setup.__name__ for setup, _, _ in FAILURES])
def test_failed_pull(command: Command, registry: FakeRegistry, setup: Setup, code: int, words: str) -> None:
    reference = setup(registry)
    ran = command("-q", "pull", "--platform", "linux/amd64", reference)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.error
    assert reference.rpartition("/")[0] in ran.error  # where
    assert command.leftovers() == {}


@pytest.mark.parametrize(
    "reference",
    ["", " ", "Redis", "redis:", "redis:-x", "redis@sha256:12", "redis\n", "http://x/redis", "x/../y", "a" * 500, "🐳"],
)
def test_malformed_reference(command: Command, reference: str) -> None:
    ran = command("-q", "pull", reference)
    assert (ran.code, ran.out) == (2, "")
    assert "reference" in ran.error
    assert not command.store.exists()


@pytest.mark.parametrize("platform", ["", "linux/", "linux/amd64/v1/x", "linux amd64", "ﬁ/x"])
def test_malformed_platform(command: Command, platform: str) -> None:
    ran = command("-q", "pull", "--platform", platform, "127.0.0.1:1/redis")
    assert (ran.code, ran.out) == (2, "")
    assert "platform" in ran.error
    assert not command.store.exists()


def test_blob_that_stays_short_leaves_its_partial_for_the_next_pull(command: Command, registry: FakeRegistry) -> None:
    image = images.build([FILES])
    digest = image.layers[0].digest
    reference = registry.add(image)
    registry.script("GET", digest, truncated(20_000))
    mended = False

    def short(request: Request, answer: Callable[[Request], Reply]) -> Reply:
        cut = truncated(0)
        assert callable(cut)
        return answer(request) if mended else cut(request, answer)

    registry.always("GET", digest, short)
    ran = command("-q", "pull", reference)
    assert (ran.code, ran.out) == (1, "")
    assert reference in ran.error
    left = command.leftovers()
    assert (list(left), len(left["ingests"])) == (["ingests"], 1)

    mended = True
    registry.forget()
    document = command("--json", "-q", "pull", reference).document[0]
    assert [request.headers["range"] for request in registry.seen("GET", digest)] == ["bytes=20000-"]
    assert document["fetched_bytes"] < len(image.layers[0].blob)
    assert command.leftovers() == {"images": [reference]}


def test_store_that_can_not_be_written(unprivileged: Command, registry: FakeRegistry) -> None:
    reference = registry.add(images.build([FILES]))
    unprivileged.home.chmod(0o555)
    ran = unprivileged("-q", "pull", reference)
    assert (ran.code, ran.out) == (1, "")
    assert str(unprivileged.store) in ran.error
    assert registry.requests == []


def test_store_that_became_read_only(unprivileged: Command, registry: FakeRegistry) -> None:
    reference = registry.add(images.build([FILES]))
    assert unprivileged("images").code == 0
    directories = [path for path in (unprivileged.store, *unprivileged.store.rglob("*")) if path.is_dir()]
    for path in directories:
        path.chmod(0o555)
    ran = unprivileged("-q", "pull", reference)
    for path in directories:
        path.chmod(0o755)
    assert (ran.code, ran.out) == (1, "")
    assert str(unprivileged.store) in ran.error
    assert unprivileged.leftovers() == {}


def test_store_that_is_something_else(command: Command) -> None:
    command.store.mkdir()
    (command.store / "letter.txt").write_text("dear")
    ran = command("-q", "pull", "127.0.0.1:1/redis")
    assert (ran.code, ran.out) == (1, "")
    assert str(command.store) in ran.error
    assert [path.name for path in command.store.iterdir()] == ["letter.txt"]


def test_one_bad_of_several_costs_the_others_nothing(command: Command, registry: FakeRegistry) -> None:
    good = registry.add(images.build([FILES]), "good")
    ran = command("--json", "-q", "pull", f"{registry.address}/missing", good)
    assert ran.code == 3
    assert [entry["reference"] for entry in ran.document] == [good]
    assert ran.error.startswith(f"{registry.address}: manifest missing:latest not found")
    assert command.leftovers() == {"images": [good]}
