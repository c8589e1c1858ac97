"""``content=``: which blobs of an image are kept, and that records and ``index.json`` tell the truth of it."""

from __future__ import annotations

import io
import json

import pytest

import imgpull
from fakes.images import Image, build
from fakes.registry import FakeRegistry
from imgpull.events import Event, LayerChanged
from imgpull.puller import Content
from imgpull.store.content import ContentStore

FILES = [{"bin/sh": b"shell" * 5_000}, {"etc/os-release": "ID=fake\n"}]


def pull(store: imgpull.Store, reference: str, content: Content, suppress: bool = True) -> imgpull.Image:
    keys = None if suppress else imgpull.NoSuppression()
    with imgpull.Puller(store, content=content, keyed_lock=keys) as puller:
        return puller.pull(reference)


def here(store: imgpull.Store, image: Image) -> list[bool]:
    return [layer.digest in store.content for layer in image.layers]


def listed(store: imgpull.Store) -> list[str]:
    document = json.loads((store.root / "index.json").read_bytes())
    return [found["digest"] for found in document["manifests"]]


def read(store: imgpull.Store, image: imgpull.Image) -> bytes:
    with store.snapshots.view(image.chain_id) as rootfs:
        return rootfs.read_bytes("etc/os-release")


def test_lazy_does_not_fetch_a_layer_whose_chain_is_here(registry: FakeRegistry, store: imgpull.Store) -> None:
    base, app = build(FILES[:1]), build(FILES)
    names = [registry.add(base, tag="base"), registry.add(app, tag="app")]
    pull(store, names[0], "lazy")
    store.content.remove(base.layers[0].digest)
    registry.forget()
    image = pull(store, names[1], "lazy")
    assert image.content == "lazy"
    assert registry.count("GET", base.layers[0].digest) == 0
    assert registry.count("GET", app.layers[1].digest) == 1
    assert listed(store) == []  # a layer of each is not here


@pytest.mark.parametrize("suppress", [True, False], ids=["suppression", "backoff"])
def test_drop_keeps_the_documents_and_the_tree(registry: FakeRegistry, store: imgpull.Store, suppress: bool) -> None:
    made = build(FILES)
    reference = registry.add(made)
    image = pull(store, reference, "drop", suppress)
    assert (image.content, image.unpacked) == ("drop", True)
    assert store.images.get(reference).content == "drop"
    assert here(store, made) == [False, False]
    assert made.digest in store.content
    assert made.config_digest in store.content
    assert listed(store) == []
    assert read(store, image) == b"ID=fake\n"
    registry.forget()
    assert pull(store, reference, "drop", suppress) == image
    assert registry.count("GET") == 0


def test_drop_leaves_what_another_image_keeps(registry: FakeRegistry, store: imgpull.Store) -> None:
    base, app = build(FILES[:1]), build(FILES)
    pull(store, registry.add(base, tag="base"), "full")
    pull(store, registry.add(app, tag="app"), "drop")
    assert here(store, app) == [True, False]
    assert listed(store) == [base.digest]


def test_full_after_drop_fetches_what_is_missing(registry: FakeRegistry, store: imgpull.Store) -> None:
    made = build(FILES)
    reference = registry.add(made)
    pull(store, reference, "drop")
    registry.forget()
    assert pull(store, reference, "full").content == "full"
    assert here(store, made) == [True, True]
    assert registry.count("GET", "/blobs/") == 2
    assert listed(store) == [made.digest]


def test_full_is_not_content_with_a_record_that_keeps_nothing(registry: FakeRegistry, store: imgpull.Store) -> None:
    made = build(FILES)
    reference = registry.add(made)
    pull(store, reference, "drop")
    for layer in made.layers:  # they happen to be here, as after a pull that failed later
        with store.content.writer("other", expected=layer.digest) as writer:
            writer.write(layer.blob)
            writer.commit()
    registry.forget()
    assert pull(store, reference, "full").content == "full"
    assert registry.count("GET") == 0
    pull(store, registry.add(made, tag="other"), "drop")
    assert here(store, made) == [True, True]


def test_a_drop_order_leaves_a_full_image_full(registry: FakeRegistry, store: imgpull.Store) -> None:
    made = build(FILES)
    reference = registry.add(made)
    pull(store, reference, "full")
    assert pull(store, reference, "drop").content == "full"
    assert here(store, made) == [True, True]


def test_what_is_removed_before_the_record_is_written_is_fetched_again(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    made = build(FILES)
    victim = made.layers[0].digest

    def remove(event: Event) -> None:
        if isinstance(event, LayerChanged) and event.state == "applied" and event.digest == made.layers[1].digest:
            store.content.remove(victim)

    with imgpull.Puller(store) as puller:
        puller.pull(registry.add(made), progress=remove)
    assert here(store, made) == [True, True]
    assert registry.count("GET", victim) == 2
    assert listed(store) == [made.digest]


def test_a_layer_that_is_dropped_before_it_is_opened_is_fetched_again(
    registry: FakeRegistry, store: imgpull.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pull with "drop" ends between this one's look and its open."""
    made = build(FILES)
    reference = registry.add(made)
    with imgpull.Puller(store) as puller:
        puller.pull(reference, unpack=False)
    store.images.remove(reference)
    victim, dropped = made.layers[0].digest, False
    real = type(store.content).open

    def opened(content: ContentStore, digest: str) -> io.FileIO:
        nonlocal dropped
        if digest == victim and not dropped:
            dropped = content.drop(digest)
        return real(content, digest)

    monkeypatch.setattr(type(store.content), "open", opened)
    image = pull(store, reference, "drop")
    assert read(store, image) == b"ID=fake\n"
    assert registry.count("GET", victim) == 2


def test_without_unpacking_drop_keeps_everything(registry: FakeRegistry, store: imgpull.Store) -> None:
    made = build(FILES)
    with imgpull.Puller(store, content="drop") as puller:
        image = puller.pull(registry.add(made), unpack=False)
    assert not image.unpacked
    assert here(store, made) == [True, True]
    assert listed(store) == [made.digest]


def test_an_unknown_word_is_refused(store: imgpull.Store) -> None:
    with pytest.raises(ValueError, match="full, lazy, drop"):
        imgpull.Puller(store, content="half")  # type: ignore[arg-type]
