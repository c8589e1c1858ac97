"""skopeo and umoci read the store as the OCI layout it is, also while images are pulled into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import imgpull
from benchmarks.origin import Origin
from fakes.everything import everything
from fakes.images import build, random_bytes
from fakes.layouts import write_layout
from fakes.skopeo import copied, push, umoci_tree
from fakes.threads import start
from fakes.trees import read_tree

pytestmark = pytest.mark.realpeer("docker-registry", "skopeo", "umoci")

PULLERS, EACH, COPIES = 4, 2, 5


@pytest.fixture
def puller(store: imgpull.Store) -> Iterator[imgpull.Puller]:
    with imgpull.Puller(store) as puller:
        yield puller


@pytest.fixture(scope="module")
def others(registry: Origin, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """References of images that share a layer and have one of their own."""
    names = [f"image-{number}" for number in range(PULLERS * EACH)]
    made = {name: build([{"base": b"base" * 1000}, {name: random_bytes(50_000, n)}]) for n, name in enumerate(names)}
    layout = write_layout(tmp_path_factory.mktemp("others") / "layout", made)
    for name in names:
        push(layout, name, f"{registry.address}/others:{name}")
    return [f"{registry.address}/others:{name}" for name in names]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("layout") / "layout", {"it": build(everything())})


@pytest.fixture(scope="module")
def reference(registry: Origin, layout: Path) -> str:
    push(layout, "it", f"{registry.address}/everything:read")
    return f"{registry.address}/everything:read"


def test_skopeo_copies_from_the_store_while_others_pull_into_it(
    store: imgpull.Store, puller: imgpull.Puller, others: list[str], reference: str, tmp_path: Path
) -> None:
    """Each pull and each removal replaces index.json; a copy finds the old one or the new one, and its image in it."""
    image = puller.pull(reference)
    stop = threading.Event()

    def come_and_go(mine: list[str]) -> int:
        rounds = 0
        while rounds == 0 or not stop.is_set():
            for other in mine:
                puller.pull(other)
            for other in mine:
                store.images.remove(other)
            rounds += 1
        return rounds

    threads = [start(partial(come_and_go, others[n::PULLERS]), f"puller-{n}") for n in range(PULLERS)]
    try:
        for number in range(COPIES):
            manifest = copied(store.root, reference, tmp_path / f"copy-{number}")
            assert [layer["digest"] for layer in manifest["layers"]] == [str(layer.digest) for layer in image.layers]
    finally:
        stop.set()
        rounds = [thread.outcome() for thread in threads]
    assert all(rounds)


def test_every_name_of_the_store_can_be_copied(
    store: imgpull.Store, puller: imgpull.Puller, others: list[str], tmp_path: Path
) -> None:
    for image in [puller.pull(other) for other in others[:3]]:
        manifest = copied(store.root, image.reference, tmp_path / image.reference.rpartition(":")[2])
        assert [layer["digest"] for layer in manifest["layers"]] == [str(layer.digest) for layer in image.layers]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gets owners and devices")
def test_umoci_unpacks_from_the_store_what_it_unpacks_from_the_layout(
    store: imgpull.Store, puller: imgpull.Puller, layout: Path, reference: str, tmp_path: Path
) -> None:
    puller.pull(reference)
    from_store = read_tree(umoci_tree(store.root, reference, tmp_path / "first"), times=False)
    assert from_store == read_tree(umoci_tree(layout, "it", tmp_path / "second"), times=False)
    assert "usr/bin/ping" in from_store
