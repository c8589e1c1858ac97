"""What an index says of what is below it, what goes missing on the way, and what is told to those who join."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import imgpull
from fakes.images import Image, build, encode, index
from fakes.registry import FakeRegistry
from fakes.threads import DEADLINE_SECONDS, until
from imgpull.cli.progress import Tracker
from imgpull.events import BlobChanged, Event, LayerChanged

IMAGES = [{"etc/os-release": "ID=fake\n"}, {"etc/more": "1"}]
INDEX = "application/vnd.oci.image.index.v1+json"


def indexed(registry: FakeRegistry, image: Image, change: Callable[[dict[str, Any]], object]) -> str:
    """An index whose entry for ``image`` was changed."""
    registry.add(image, tag="below")
    document = json.loads(index({"linux/amd64": image}).raw)
    change(document["manifests"][0])
    registry.add_manifest(encode(document), INDEX, tag="index")
    return f"{registry.address}/library/fake:index"


@pytest.mark.parametrize("wrong_by", [-1, 1])
@pytest.mark.parametrize("here", [False, True], ids=["fetched", "here"])
def test_a_size_that_the_index_gets_wrong(
    registry: FakeRegistry, store: imgpull.Store, wrong_by: int, here: bool
) -> None:
    image = build(IMAGES)
    reference = indexed(registry, image, lambda entry: entry.update(size=entry["size"] + wrong_by))
    with imgpull.Puller(store) as puller:
        if here:
            puller.pull(f"{registry.address}/library/fake:below", platform="linux/amd64")
        with pytest.raises(imgpull.SizeMismatchError) as caught:
            puller.pull(reference, platform="linux/amd64")
    assert caught.value.expected - caught.value.actual == wrong_by
    assert (image.digest in store.content) == here


def lying(registry: FakeRegistry, image: Image, change: Callable[[dict[str, Any]], object]) -> str:
    """The same image by a manifest that was changed."""
    document = json.loads(image.raw)
    change(document)
    registry.add(replace(image, raw=encode(document)), tag="lying")
    return f"{registry.address}/library/fake:lying"


@pytest.mark.parametrize("wrong_by", [-1, 1])
@pytest.mark.parametrize("part", ["config", "layer"])
def test_a_size_that_the_manifest_gets_wrong_of_a_blob_that_is_here(
    registry: FakeRegistry, store: imgpull.Store, wrong_by: int, part: str
) -> None:
    image = build(IMAGES)

    def change(document: dict[str, Any]) -> None:
        (document["config"] if part == "config" else document["layers"][0])["size"] += wrong_by

    with imgpull.Puller(store) as puller:
        puller.pull(f"{registry.address}/{registry.add(image).split('/', 1)[1]}")
        with pytest.raises(imgpull.SizeMismatchError) as caught:
            puller.pull(lying(registry, image, change))
    assert caught.value.expected - caught.value.actual == wrong_by


def test_a_size_that_the_manifest_gets_wrong_of_a_blob_that_comes_meanwhile(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    image = build(IMAGES)
    registry.add(image)
    digest = image.layers[0].digest
    reference = lying(registry, image, lambda document: document["layers"][0].update(size=1_000_000))
    gate = registry.block(digest, at=1)
    with imgpull.Puller(store) as puller:
        honest = puller.submit(f"{registry.address}/library/fake")
        gate.wait_reached()
        other = puller.submit(reference)
        until(lambda: store.keyed_lock.waiters(f"blob://{digest}") == 1, "the other waits for the same blob")
        gate.open()
        assert honest.result(60).layers[0].digest == digest
        with pytest.raises(imgpull.SizeMismatchError):
            other.result(60)
    assert registry.count("GET", digest) == 1


def test_a_manifest_inside_the_index_is_not_asked_for(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    raw = image.manifests[image.digest][1]
    reference = indexed(registry, image, lambda entry: entry.update(data=base64.b64encode(raw).decode()))
    with imgpull.Puller(store) as puller:
        assert puller.pull(reference, platform="linux/amd64").manifest_digest == image.digest
    assert registry.count("GET", image.digest) == 0
    assert image.digest in store.content


def test_a_manifest_inside_the_index_that_is_another_is_not_believed(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    image = build(IMAGES)
    raw = image.manifests[image.digest][1].replace(b"sha256:", b"sha256;")
    reference = indexed(registry, image, lambda entry: entry.update(data=base64.b64encode(raw).decode()))
    with imgpull.Puller(store) as puller:
        assert puller.pull(reference, platform="linux/amd64").manifest_digest == image.digest
    assert registry.count("GET", image.digest) == 1


def test_data_that_is_no_manifest_is_not_kept(registry: FakeRegistry, store: imgpull.Store) -> None:
    raw = b'{"schemaVersion": 2}'
    image = build(IMAGES)

    def change(entry: dict[str, Any]) -> None:
        entry.update(data=base64.b64encode(raw).decode(), digest=imgpull.Digest.of_bytes(raw), size=len(raw))

    with imgpull.Puller(store) as puller, pytest.raises(imgpull.ImageError):
        puller.pull(indexed(registry, image, change), platform="linux/amd64")
    assert imgpull.Digest.of_bytes(raw) not in store.content


@pytest.mark.parametrize("which", [0, 1])
def test_a_layer_that_was_removed_after_it_came_is_fetched_again(
    registry: FakeRegistry, store: imgpull.Store, which: int
) -> None:
    """Both layers are here; then one goes, before the unpacker opens it."""
    image = build(IMAGES)
    registry.add(image)
    digest = image.layers[which].digest
    fetched: set[str] = set()

    def remove(event: Event) -> None:
        if isinstance(event, BlobChanged) and event.state == "fetched":
            fetched.add(event.digest)
        elif isinstance(event, LayerChanged) and event.state == "waiting" and event.digest == digest:
            until(lambda: {layer.digest for layer in image.layers} <= fetched, "both are here")
            until(lambda: digest in store.content, "it is here")
            store.content.remove(digest)

    with imgpull.Puller(store) as puller:
        pulled = puller.pull(f"{registry.address}/library/fake", progress=remove)
    assert registry.count("GET", digest) == 2
    assert pulled.chain_id in store.snapshots
    assert digest in store.content


def test_who_joins_a_pull_has_its_layers_joined(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    registry.add(image)
    gate = registry.block(image.layers[0].digest, at=10)
    first, second = Tracker("first"), Tracker("second")
    with imgpull.Puller(store) as puller:
        ahead = puller.submit(f"{registry.address}/library/fake", progress=first)
        gate.wait_reached()
        behind = puller.submit(f"{registry.address}/library/fake", progress=second)
        until(lambda: any(len(f._seats) == 2 for f in puller._traffic.pulls._live.values()), "the second has joined")
        gate.open()
        assert ahead.result(DEADLINE_SECONDS) == behind.result(DEADLINE_SECONDS)
    assert [first.outcome(layer.digest) for layer in image.layers] == ["fetched", "fetched"]
    assert [second.outcome(layer.digest) for layer in image.layers] == ["joined", "joined"]
    assert (first.fetched_bytes > 0, second.fetched_bytes) == (True, 0)


def test_a_name_whose_image_another_name_unpacked(registry: FakeRegistry, store: imgpull.Store) -> None:
    """Its own record says so, too, and keeps the snapshot."""
    registry.add(build(IMAGES), tag="one")
    one, two = (f"{registry.address}/library/fake:{tag}" for tag in ("one", "two"))
    with imgpull.Puller(store) as puller:
        puller.pull(one, unpack=False)
        store.images.tag(one, two)
        puller.pull(one)
        assert puller.pull(two, policy="missing").unpacked
    assert store.images.get(two).unpacked


def test_a_dropped_layer_is_not_said_to_be_here(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    registry.add(image)
    again = Tracker("again")
    with imgpull.Puller(store, content="drop") as puller:
        puller.pull(f"{registry.address}/library/fake")
        puller.pull(f"{registry.address}/library/fake", progress=again)
    assert [again.outcome(layer.digest) for layer in image.layers] == ["skipped", "skipped"]


def test_no_slot_to_unpack_in(store: imgpull.Store) -> None:
    with pytest.raises(ValueError):
        imgpull.Puller(store, max_concurrent_unpacks=0)


def test_a_sink_that_fails_at_the_end_costs_nothing(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    registry.add(image)
    gate = registry.block(image.layers[0].digest, at=10)

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    with imgpull.Puller(store) as puller:
        ahead = puller.submit(f"{registry.address}/library/fake")
        gate.wait_reached()
        behind = puller.submit(f"{registry.address}/library/fake", progress=broken)
        until(lambda: any(len(f._seats) == 2 for f in puller._traffic.pulls._live.values()), "the second has joined")
        gate.open()
        assert ahead.result(DEADLINE_SECONDS) == behind.result(DEADLINE_SECONDS)


@pytest.mark.parametrize("extra", [0, 1, 1000])
def test_a_partial_that_is_no_beginning_of_the_blob(registry: FakeRegistry, store: imgpull.Store, extra: int) -> None:
    """As long as the blob and wrong, or longer: somebody wrote into the dead file."""
    image = build(IMAGES)
    registry.add(image)
    layer = image.layers[0]
    size = layer.descriptor["size"]
    with store.content.writer(f"layer-{layer.digest}", expected=layer.digest, total_bytes=size) as writer:
        writer.write(b"x")
    (partial,) = (store.root / "ingest").glob("*/data")
    partial.chmod(0o600)
    partial.write_bytes(b"x" * (size + extra))
    with imgpull.Puller(store) as puller:
        assert puller.pull(f"{registry.address}/library/fake").chain_id in store.snapshots
    assert registry.count("GET", layer.digest) == 1
    assert not list((store.root / "ingest").iterdir())


def test_layers_are_asked_for_beside_the_config(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    gate = registry.block(image.config_digest)
    with imgpull.Puller(store) as puller:
        pulled = puller.submit(registry.add(image))
        gate.wait_reached()
        until(lambda: all(layer.digest in store.content for layer in image.layers), "the layers are here")
        assert not list(store.snapshots.walk())  # nothing is unpacked before the config was seen
        gate.open()
        assert pulled.result(DEADLINE_SECONDS).chain_id in store.snapshots


def test_lazy_asks_for_no_layer_before_it_knows_what_is_unpacked(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    reference = registry.add(image)
    with imgpull.Puller(store) as puller:
        puller.pull(reference)
    for blob in (image.config_digest, *(layer.digest for layer in image.layers)):
        store.content.remove(blob)
    registry.forget()
    with imgpull.Puller(store, content="lazy") as puller:
        puller.pull(reference)
    assert registry.count("GET", image.config_digest) == 1
    assert all(registry.count("GET", layer.digest) == 0 for layer in image.layers)


def test_a_config_that_is_refused_ends_what_was_asked_for_beside_it(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    image = build(IMAGES)
    gate = registry.block(image.layers[0].digest, at=1)
    try:
        with imgpull.Puller(store) as puller, pytest.raises(imgpull.PlatformNotFoundError):
            puller.pull(registry.add(image), platform="linux/s390x")
    finally:
        gate.open()
    assert store.images.list() == []
    assert list(store.snapshots.walk()) == []


def test_a_pull_is_one_transaction_and_a_duplicate_none(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build([{f"layer{number}": "x"} for number in range(12)])
    reference = registry.add(image)
    before = store.database.transactions
    with imgpull.Puller(store) as puller:
        gate = registry.block(image.layers[0].digest)
        futures = [puller.submit(reference)]
        gate.wait_reached()
        futures += [puller.submit(reference) for _ in range(4)]
        until(lambda: registry.count("HEAD") >= 2, "the others resolved for themselves")
        gate.open()
        chains = {future.result(DEADLINE_SECONDS).chain_id for future in futures}
    assert store.database.transactions - before == 1
    assert len(chains) == 1
    rows = {row["name"] for row in store.database.query("SELECT name FROM snapshots")}
    assert rows == {info.name for info in store.snapshots.walk()}
    assert len(rows) == 12
    assert all(store.content.diff_id(layer.digest) == layer.diff_id for layer in image.layers)


def test_a_pull_that_fails_leaves_the_rows_of_what_it_brought(registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    registry.add(image)
    registry.remove_blob(image.layers[1].digest)
    with imgpull.Puller(store) as puller, pytest.raises(imgpull.NotFoundError):
        puller.pull(f"{registry.address}/library/fake")
    until(
        lambda: store.database.query("SELECT 1 FROM blobs WHERE digest = ?", (image.config_digest,)) != [],
        "what came is recorded",
    )
