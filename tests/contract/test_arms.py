"""Every arm of the benchmark is right, and merely slow: the same contract with and without suppression."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import imgpull
from fakes.images import Image, Link, build
from fakes.registry import FakeRegistry, corrupted, refused, truncated
from fakes.threads import together, until
from fakes.wire import Gate
from imgpull.events import BlobRequested, Event, Woken

IMAGES = [
    {"etc/os-release": "ID=fake\n", "bin/": None, "bin/sh": b"shell" * 5_000, "gone": "x"},
    {".wh.gone": "", "etc/more": "1"},
]


def backoff(store: imgpull.Store) -> imgpull.Puller:
    return imgpull.Puller(store, keyed_lock=imgpull.NoSuppression())


@pytest.fixture(params=[imgpull.Puller, backoff], ids=["suppression", "backoff"])
def make(request: pytest.FixtureRequest) -> Callable[[imgpull.Store], imgpull.Puller]:
    made: Callable[[imgpull.Store], imgpull.Puller] = request.param
    return made


Make = Callable[[imgpull.Store], imgpull.Puller]


def halfway(registry: FakeRegistry) -> tuple[Image, Gate]:
    """An image whose first layer stops after ten bytes, until the gate is opened."""
    image = build(IMAGES)
    registry.add(image)
    return image, registry.block(image.layers[0].digest, at=10)


def test_eight_at_once_get_the_same_tree(make: Make, registry: FakeRegistry, store: imgpull.Store) -> None:
    reference = f"{registry.address}/{registry.add(build(IMAGES))}"
    reference = f"{registry.address}/library/fake:latest"
    with make(store) as puller:
        pulled = together([lambda: puller.pull(reference)] * 8)
    images = [image for image in pulled if isinstance(image, imgpull.Image)]
    assert len(images) == 8
    with store.snapshots.view(images[0].chain_id) as rootfs:
        assert rootfs.read_text("etc/os-release") == "ID=fake\n"
        assert sorted(rootfs.listdir("/")) == ["bin", "etc"]
    assert not list((store.root / "ingest").iterdir())


def test_a_body_that_ends_early_is_resumed(make: Make, registry: FakeRegistry, store: imgpull.Store) -> None:
    image = build(IMAGES)
    registry.add(image)
    digest = image.layers[0].digest
    registry.script("GET", digest, truncated(50))
    with make(store) as puller:
        puller.pull(f"{registry.address}/library/fake")
    assert [request.headers.get("range") for request in registry.seen("GET", digest)] == [None, "bytes=50-"]


def test_wrong_bytes_are_asked_for_once_more_and_then_refused(
    make: Make, registry: FakeRegistry, store: imgpull.Store
) -> None:
    image = build(IMAGES)
    registry.add(image)
    digest = image.layers[0].digest
    registry.script("GET", digest, corrupted(7))
    with make(store) as puller:
        puller.pull(f"{registry.address}/library/fake")
        assert registry.count("GET", digest) == 2
    registry.always("GET", digest, corrupted(7))
    store.images.remove(f"{registry.address}/library/fake")
    store.content.remove(digest)
    with make(store) as puller, pytest.raises(imgpull.DigestMismatchError):
        puller.pull(f"{registry.address}/library/fake")
    assert registry.count("GET", digest) == 4
    assert digest not in store.content
    assert not list((store.root / "ingest").iterdir())


def test_the_pulls_own_work_ends_with_its_first_error(
    make: Make, registry: FakeRegistry, store: imgpull.Store
) -> None:
    image = build(IMAGES)
    registry.add(image)
    registry.always("GET", image.layers[1].digest, refused(404, "BLOB_UNKNOWN"))
    gate = registry.block(image.layers[0].digest, at=10)
    with make(store) as puller, pytest.raises(imgpull.NotFoundError):
        puller.pull(f"{registry.address}/library/fake")
    gate.open()
    assert store.images.list() == []
    assert list(store.snapshots.walk()) == []


def test_policies(make: Make, registry: FakeRegistry, store: imgpull.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    image = build(IMAGES)
    registry.add(image)
    reference = f"{registry.address}/library/fake"
    with make(store) as puller:
        with pytest.raises(imgpull.OfflineError):
            puller.pull(reference, policy="never")
        first = puller.pull(reference, policy="missing")
        registry.forget()
        assert puller.pull(reference, policy="missing") == first
        assert puller.pull(reference, policy="never") == first
        assert puller.pull(f"{reference}@{first.digest}").digest == first.digest
        assert registry.requests == []
        assert puller.pull(reference).digest == first.digest
        assert [request.method for request in registry.requests] == ["HEAD"]
        registry.always("HEAD", "manifests", refused(503))
        registry.always("GET", "manifests", refused(403))
        monkeypatch.setenv("IMGPULL_OFFLINE", "1")
        assert puller.pull(reference).digest == first.digest


def test_newer_is_content_with_what_is_here(make: Make, registry: FakeRegistry, store: imgpull.Store) -> None:
    registry.add(build(IMAGES))
    reference = f"{registry.address}/library/fake"
    with make(store) as puller:
        first = puller.pull(reference)
        registry.always("HEAD", "manifests", refused(403))
        registry.always("GET", "manifests", refused(403))
        assert puller.pull(reference, policy="newer") == first
        with pytest.raises(imgpull.UnauthorizedError):
            puller.pull(reference)


def test_without_unpacking_nothing_is_unpacked(make: Make, registry: FakeRegistry, store: imgpull.Store) -> None:
    registry.add(build(IMAGES))
    with make(store) as puller:
        image = puller.pull(f"{registry.address}/library/fake", unpack=False)
        assert not image.unpacked
        assert list(store.snapshots.walk()) == []
        registry.forget()
        assert puller.pull(f"{registry.address}/library/fake").chain_id in store.snapshots
        assert registry.count("GET") == 0


def test_an_image_without_layers_is_an_empty_root(make: Make, registry: FakeRegistry, store: imgpull.Store) -> None:
    registry.add(build([]))
    with make(store) as puller:
        image = puller.pull(f"{registry.address}/library/fake")
    with store.snapshots.view(image.chain_id) as rootfs:
        assert rootfs.listdir("/") == []


def test_a_call_times_out_and_the_work_goes_on_for_the_other(registry: FakeRegistry, store: imgpull.Store) -> None:
    image, gate = halfway(registry)
    with imgpull.Puller(store) as puller:
        other = puller.submit(f"{registry.address}/library/fake")
        gate.wait_reached()
        with pytest.raises(imgpull.PullTimeoutError):
            puller.pull(f"{registry.address}/library/fake", timeout_seconds=0.01)
        with pytest.raises(imgpull.PullTimeoutError):
            puller.submit(f"{registry.address}/library/fake", timeout_seconds=0.01).result(10)
        cancel = imgpull.Cancellation()
        third = puller.submit(f"{registry.address}/library/fake", cancel=cancel)
        cancel.cancel()
        with pytest.raises(imgpull.PullCancelledError):
            third.result(10)
        gate.open()
        assert other.result(10).chain_id in store.snapshots
    assert registry.count("GET", image.layers[0].digest) == 1


def test_backoff_sleeps_where_suppression_waits(registry: FakeRegistry, store: imgpull.Store) -> None:
    image, gate = halfway(registry)
    events: list[Event] = []
    with backoff(store) as puller:
        first = puller.submit(f"{registry.address}/library/fake", progress=events.append)
        gate.wait_reached()
        second = puller.submit(f"{registry.address}/library/fake", progress=events.append)
        until(lambda: any(isinstance(event, Woken) and event.found_held for event in events), "a wake-up for nothing")
        gate.open()
        assert first.result(30).chain_id == second.result(30).chain_id
    assert sum(isinstance(event, BlobRequested) and event.digest == image.layers[0].digest for event in events) == 1


def test_a_closed_puller_takes_no_calls(store: imgpull.Store) -> None:
    puller = imgpull.Puller(store)
    puller.close()
    puller.close()
    with pytest.raises(RuntimeError, match="closed"):
        puller.submit("localhost:1/x")


def test_bad_arguments(store: imgpull.Store) -> None:
    with imgpull.Puller(store) as puller:
        with pytest.raises(imgpull.InvalidReferenceError):
            puller.submit("UPPER:x")
        with pytest.raises(imgpull.InvalidPlatformError):
            puller.pull("x", platform="a/b/c/d/e")
        with pytest.raises(ValueError, match="policy"):
            puller.pull("x", policy="sometimes")  # type: ignore[arg-type]


def test_a_whiteout_that_comes_after_what_it_changes(make: Make, registry: FakeRegistry, store: imgpull.Store) -> None:
    """An entry went through a link of the layer below, then the link is hidden: as if the whiteout had come first."""
    registry.add(build([{"a": Link("b/c")}, {"a/x": "1", ".wh.a": ""}]))
    with make(store) as puller:
        image = puller.pull(f"{registry.address}/library/fake")
    with store.snapshots.view(image.chain_id) as rootfs:
        assert rootfs.read_text("a/x") == "1"
        assert rootfs.listdir("/") == ["a"]
