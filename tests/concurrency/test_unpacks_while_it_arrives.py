"""A layer is unpacked while it arrives, and what was made of its bytes counts once they are the blob."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

import imgpull
from fakes.images import Image, Layer, build, build_layer, random_bytes
from fakes.registry import FakeRegistry, corrupted, ignoring_range, truncated
from fakes.threads import until
from imgpull.events import BlobAdvanced, BlobRequested, Event, LayerChanged

FILES = {f"file{number:03}": random_bytes(5_000, number) for number in range(200)}
"""A layer of a megabyte, which gzip does not make smaller: several blocks arrive, and are applied, before its end."""


class Heard:
    """What was said of a pull."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def states(self, layer: Layer) -> Counter[str]:
        found = (event for event in self.events if isinstance(event, LayerChanged))
        return Counter(event.state for event in found if event.digest == layer.digest)

    def offsets(self, layer: Layer) -> list[int]:
        found = (event for event in self.events if isinstance(event, BlobRequested))
        return [event.offset_bytes for event in found if event.digest == layer.digest]

    def arrived_bytes(self, layer: Layer) -> int:
        found = (event for event in self.events if isinstance(event, BlobAdvanced))
        return sum(event.advance_bytes for event in found if event.digest == layer.digest)


def add(registry: FakeRegistry, *layers: Layer) -> tuple[Image, str]:
    image = build(layers)
    return image, f"{registry.address}/{registry.add(image).split('/', 1)[1]}"


def read(store: imgpull.Store, image: imgpull.Image) -> dict[str, bytes]:
    with store.snapshots.view(image.chain_id) as rootfs:
        return {name: rootfs.read_bytes(name) for name in rootfs.listdir("/")}


def applied_files(store: imgpull.Store) -> int:
    """How many files active snapshots have by now."""
    return sum(1 for path in (store.root / "snapshots/active").glob("*/snapshot/fs/*"))


def test_files_are_there_before_the_last_byte_is(registry: FakeRegistry, store: imgpull.Store) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    gate = registry.block(layer.digest, at=len(layer.blob) - 1000)
    with imgpull.Puller(store) as puller:
        future = puller.submit(reference)
        gate.wait_reached()
        until(lambda: applied_files(store) > 100, "the layer is being applied")
        assert layer.digest not in store.content
        assert list(store.snapshots.walk())[0].kind == "active"
        gate.open()
        assert read(store, future.result(60)) == FILES
    assert registry.count("GET", layer.digest) == 1


def test_without_suppression_a_blob_is_whole_before_it_is_unpacked(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    gate = registry.block(layer.digest, at=len(layer.blob) - 1000)
    heard = Heard()
    with imgpull.Puller(store, keyed_lock=imgpull.NoSuppression()) as puller:
        future = puller.submit(reference, progress=heard)
        gate.wait_reached()
        until(lambda: heard.arrived_bytes(layer) > 500_000, "most of the blob is here")
        assert heard.states(layer)["unpacking"] == 0
        gate.open()
        assert read(store, future.result(60)) == FILES


def test_who_waits_for_bytes_lends_the_slot(registry: FakeRegistry, store: imgpull.Store) -> None:
    below, above = build_layer(FILES), build_layer({"above": b"1"})
    _, reference = add(registry, below, above)
    gate = registry.block(below.digest, at=600_000)
    heard = Heard()
    with imgpull.Puller(store, max_concurrent_unpacks=1) as puller:
        future = puller.submit(reference, progress=heard)
        gate.wait_reached()
        until(lambda: applied_files(store) > 50, "the lower layer is being applied")
        # One slot in all: the upper layer gets it although the lower one is in the middle.
        until(lambda: list((store.root / "snapshots/active").glob("*/snapshot/fs/above")), "the upper layer is made")
        gate.open()
        assert read(store, future.result(60)) == {**FILES, "above": b"1"}
    assert heard.states(below)["applied"] == heard.states(above)["applied"] == 1


def test_a_body_that_ends_early_is_gone_on_with_and_nothing_applied_twice(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    registry.script("GET", layer.digest, truncated(400_000), truncated(300_000))
    heard = Heard()
    with imgpull.Puller(store) as puller:
        assert read(store, puller.pull(reference, progress=heard)) == FILES
    assert heard.offsets(layer) == [0, 400_000, 700_000]
    assert heard.arrived_bytes(layer) == len(layer.blob)
    assert heard.states(layer)["unpacking"] == 1


def test_a_range_that_is_ignored_begins_the_layer_again(registry: FakeRegistry, store: imgpull.Store) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    registry.script("GET", layer.digest, truncated(400_000), ignoring_range)
    heard = Heard()
    with imgpull.Puller(store) as puller:
        assert read(store, puller.pull(reference, progress=heard)) == FILES
    assert heard.offsets(layer) == [0, 400_000]
    assert heard.arrived_bytes(layer) == len(layer.blob)
    assert heard.states(layer)["applied"] == 1
    assert [info.kind for info in store.snapshots.walk()] == ["committed"]


@pytest.mark.parametrize("at", [20, 500_000], ids=["damaged early", "damaged late"])
def test_bytes_that_are_wrong_once_leave_no_trace(registry: FakeRegistry, store: imgpull.Store, at: int) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    registry.script("GET", layer.digest, corrupted(at))
    heard = Heard()
    with imgpull.Puller(store) as puller:
        assert read(store, puller.pull(reference, progress=heard)) == FILES
    assert heard.offsets(layer) == [0, 0]
    assert heard.states(layer)["applied"] == 1
    assert [info.kind for info in store.snapshots.walk()] == ["committed"]


def test_wrong_bytes_are_the_fetch_s_error_whatever_they_unpack_to(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    registry.always("GET", layer.digest, corrupted(20))
    with imgpull.Puller(store) as puller, pytest.raises(imgpull.DigestMismatchError) as caught:
        puller.pull(reference)
    assert caught.value.expected == layer.digest
    assert registry.count("GET", layer.digest) == 2
    assert list(store.snapshots.walk()) == []
    assert layer.digest not in store.content


def test_right_bytes_that_are_no_layer_are_the_image_s_error(registry: FakeRegistry, store: imgpull.Store) -> None:
    honest = build_layer(FILES)
    broken = Layer(honest.blob[:600_000], honest.tar, honest.media_type)
    _, reference = add(registry, broken)
    with imgpull.Puller(store) as puller, pytest.raises(imgpull.InvalidArchiveError):
        puller.pull(reference)
    assert broken.digest in store.content
    assert list(store.snapshots.walk()) == []


def test_a_limit_stops_the_transfer_at_once(registry: FakeRegistry, store: imgpull.Store) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    gate = registry.block(layer.digest, at=len(layer.blob) - 1000)
    with imgpull.Puller(store, limits=imgpull.Limits(layer_entries=50)) as puller:
        with pytest.raises(imgpull.LimitExceededError):
            puller.pull(reference)  # though the rest has not come, and does not come before
        gate.open()
    assert layer.digest not in store.content
    assert list(store.snapshots.walk()) == []


def test_a_limit_does_not_wait_for_what_is_assumed_of_the_parents(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    below = build_layer({"below": random_bytes(100_000, 1)})
    bomb = build_layer({f"implied/{name}": data for name, data in FILES.items()})
    _, reference = add(registry, below, bomb)
    gate = registry.block(below.digest, at=10_000)
    with imgpull.Puller(store, limits=imgpull.Limits(layer_entries=50)) as puller:
        with pytest.raises(imgpull.LimitExceededError) as caught:
            puller.pull(reference)  # though the bottom layer has not come, and does not come before
        gate.open()
    assert caught.value.layer == bomb.digest


def test_two_images_follow_one_transfer(registry: FakeRegistry, store: imgpull.Store) -> None:
    shared = build_layer(FILES)
    first = build([shared, {"one": b"1"}])
    second = build([shared, {"two": b"2"}], config={"Env": ["A=2"]})
    references = [registry.add(image, tag=tag) for image, tag in ((first, "one"), (second, "two"))]
    gate = registry.block(shared.digest, at=600_000)
    heard = Heard()
    with imgpull.Puller(store) as puller:
        futures = [puller.submit(reference, progress=heard) for reference in references]
        gate.wait_reached()
        gate.open()
        pulled = [future.result(60) for future in futures]
    assert [read(store, image) for image in pulled] == [{**FILES, "one": b"1"}, {**FILES, "two": b"2"}]
    assert registry.count("GET", shared.digest) == 1
    assert heard.states(shared)["applied"] == 1


def test_a_leader_who_leaves_in_the_middle_costs_the_others_nothing(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    layer = build_layer(FILES)
    image, tagged = add(registry, layer)
    reference = f"{tagged.rsplit(':', 1)[0]}@{image.digest}"  # nothing to resolve: submit() has boarded when it returns
    gate = registry.block(layer.digest, at=600_000)
    heard = Heard()
    with imgpull.Puller(store) as puller:
        leader = puller.submit(reference)
        gate.wait_reached()
        other = puller.submit(reference, progress=heard)
        assert leader.cancel()
        gate.open()
        assert read(store, other.result(60)) == FILES
    assert registry.count("GET", layer.digest) == 1
    assert heard.states(layer)["applied"] == 1


def test_the_last_one_to_leave_ends_it_in_the_middle_and_the_next_goes_on(
    registry: FakeRegistry, store: imgpull.Store
) -> None:
    layer = build_layer(FILES)
    _, reference = add(registry, layer)
    gate = registry.block(layer.digest, at=600_000)
    heard = Heard()
    with imgpull.Puller(store) as puller:
        future = puller.submit(reference)
        gate.wait_reached()
        until(lambda: applied_files(store) > 50, "the layer is being applied")
        assert future.cancel()
        until(lambda: not list(store.snapshots.walk()), "what was applied is gone")
        # The registry still holds the rest back: nobody waited for it.
        until(lambda: not _flying(), "every thread of the pull has ended")
        gate.open()
        assert read(store, puller.pull(reference, progress=heard)) == FILES
    [offset] = heard.offsets(layer)
    assert offset > 0
    assert heard.arrived_bytes(layer) + offset == len(layer.blob)


def _flying() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("imgpull-fetch", "imgpull-unpack"))]
