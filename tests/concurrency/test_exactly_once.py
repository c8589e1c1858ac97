"""Each piece of work exactly once, by the registry's log and by the events, however many ask at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import imgpull
from fakes.images import Image, build
from fakes.registry import FakeRegistry
from fakes.threads import start, together, until
from fakes.tokens import BearerAuth
from imgpull.events import Event, LayerChanged

THREADS = 64
TREES = [{f"layer{n}": os.urandom(2_000)} for n in range(6)]
BASE, APP, TOOL, LIB, MORE, LAST = TREES
IMAGES = {
    "one": [BASE, APP],
    "two": [BASE, APP, TOOL],
    "three": [BASE, LIB],
    "four": [BASE, APP, TOOL, MORE, LAST],
}


class Applied:
    """Counts how often each chain was applied; one sink for every call, so an event counts once."""

    def __init__(self) -> None:
        self.chains: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, LayerChanged) and event.state == "applied":
            self.chains[event.chain_id] += 1


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(auth=BearerAuth()) as registry:
        yield registry


@pytest.fixture
def images(registry: FakeRegistry) -> dict[str, Image]:
    built = {tag: build(layers) for tag, layers in IMAGES.items()}
    for tag, image in built.items():
        registry.add(image, tag=tag)
    return built


def blobs_of(images: dict[str, Image]) -> set[str]:
    return {layer.digest for image in images.values() for layer in image.layers}


def check(registry: FakeRegistry, images: dict[str, Image], applied: Applied, results: list[object]) -> None:
    assert len(results) == THREADS
    for result in results:
        assert isinstance(result, imgpull.Image)
    assert registry.tokens == 1
    for image in images.values():
        assert registry.count("GET", f"/manifests/{image.digest}", status=200) == 1
        assert registry.count("GET", f"/manifests/{image.digest}") == 1
    for digest in blobs_of(images):
        assert registry.count("GET", digest, status=200) == 1, digest
    chains = {layer.chain_id for result in results if isinstance(result, imgpull.Image) for layer in result.layers}
    assert applied.chains == dict.fromkeys(chains, 1)
    assert len(chains) == 6


def refs(registry: FakeRegistry) -> list[str]:
    tags = list(IMAGES)
    return [f"{registry.address}/library/fake:{tags[n % len(tags)]}" for n in range(THREADS)]


@pytest.mark.parametrize("pullers", [1, 4])
def test_pullers_on_one_store(registry: FakeRegistry, images: dict[str, Image], tmp_path: Path, pullers: int) -> None:
    applied = Applied()
    with ExitStack() as stack:
        store = stack.enter_context(imgpull.Store(tmp_path / "store"))
        made = [stack.enter_context(imgpull.Puller(store)) for _ in range(pullers)]
        results = together(
            [
                lambda puller=made[n % pullers], ref=ref: puller.pull(ref, progress=applied)  # type: ignore[misc]
                for n, ref in enumerate(refs(registry))
            ]
        )
        check(registry, images, applied, results)
        assert not list((tmp_path / "store" / "ingest").iterdir())


def test_the_one_call_form(
    registry: FakeRegistry, images: dict[str, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGPULL_HOME", str(tmp_path / "home"))
    applied = Applied()
    gate = registry.block(images["four"].layers[-1].digest)  # keeps the store open while the others come and go
    ahead = start(lambda: imgpull.pull(refs(registry)[3], progress=applied))
    gate.wait_reached()
    results = together(
        [lambda ref=ref: imgpull.pull(ref, progress=applied) for ref in refs(registry)[1:] if not ref.endswith("four")]  # type: ignore[misc]
    )
    gate.open()
    assert isinstance(ahead.done().outcome(), imgpull.Image)
    assert registry.tokens == 1
    assert all(isinstance(result, imgpull.Image) for result in results)
    assert all(registry.count("GET", digest, status=200) == 1 for digest in blobs_of(images))
    assert set(applied.chains.values()) == {1}


def pull_all(registry: FakeRegistry, tmp_path: Path, tags: list[str], **options: int) -> list[imgpull.Image]:
    with imgpull.Store(tmp_path / "store") as store, imgpull.Puller(store, **options) as puller:  # type: ignore[arg-type]
        ready = [puller.submit(f"{registry.address}/library/fake:{tag}") for tag in tags]
        return [future.result(timeout=30) for future in ready]


def test_one_digest_twice_in_a_manifest(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        image = build([BASE, APP, BASE])
        registry.add(image, tag="twice")
        (pulled,) = pull_all(registry, tmp_path, ["twice"], max_concurrent_fetches=1, max_concurrent_unpacks=1)
        assert pulled.layers[0].digest == pulled.layers[2].digest
        assert pulled.layers[0].chain_id != pulled.layers[2].chain_id
        assert registry.count("GET", image.layers[0].digest) == 1


def test_two_images_with_the_same_layers_in_opposite_order(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        first, second = build([BASE, APP]), build([APP, BASE])
        registry.add(first, tag="xy")
        registry.add(second, tag="yx")
        tags = ["xy", "yx"] * 8
        pulled = pull_all(registry, tmp_path, tags, max_concurrent_fetches=1, max_concurrent_unpacks=1)
        assert len({image.chain_id for image in pulled}) == 2
        for digest in {layer.digest for layer in (*first.layers, *second.layers)}:
            assert registry.count("GET", digest) == 1


def test_a_manifest_does_not_wait_behind_the_layers_of_other_images(
    registry: FakeRegistry, images: dict[str, Image], tmp_path: Path
) -> None:
    gate = registry.block(images["one"].layers[0].digest, at=100)
    with imgpull.Store(tmp_path) as store, imgpull.Puller(store, max_concurrent_fetches=1) as puller:
        first = puller.submit(f"{registry.address}/library/fake:one")
        gate.wait_reached()
        second = puller.submit(f"{registry.address}/library/fake:three")
        until(lambda: registry.count("GET", images["three"].digest) == 1, "the manifest is asked for")
        assert not first.done() and not second.done()
        gate.open()
        assert [pull.result(20).digest for pull in (first, second)] == [images["one"].digest, images["three"].digest]
