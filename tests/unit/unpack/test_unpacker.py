"""Layers side by side: who waits for whom, what stays after an error, and that the result is the serial one.

Gates decide the order; what is asserted are counts and states.
"""

from __future__ import annotations

import io
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fakes.archives import D, F, H, S, archive
from fakes.chains import GatedSource, Image, SlowReader, image, random_image
from fakes.threads import Worker, start, until
from fakes.trees import read_tree
from imgpull.errors import InvalidArchiveError, PullCancelledError, RegistryUnavailableError
from imgpull.events import Event, LayerChanged
from imgpull.limits import Limits
from imgpull.locking import Cancellation, KeyedLock, KeyedMutex, NoSuppression, Slot, Slots
from imgpull.oci import Digest
from imgpull.store import Store, Waiting
from imgpull.store.snapshots import Snapshots
from imgpull.unpack import LayerSource, Unpacker


class Bench:
    """A store, an unpacker and what it said."""

    def __init__(self, root: Path, keys: KeyedLock, slots: int) -> None:
        self.store = Store(root, durability="none")
        self.keys = keys
        self.slots = Slots(slots)
        self.unpacker = Unpacker(self.store, keys, self.slots, "overlay", Limits())
        self.cancel = Cancellation()
        self.events: list[Event] = []

    def unpack(self, made: Image, source: LayerSource) -> None:
        self.unpacker.unpack(made.layers, made.descriptors, source, self.cancel, self.events.append)

    def start(self, made: Image, source: LayerSource) -> Worker:
        # The library's prefix: layer threads are named after it, and one left behind fails the test.
        return start(lambda: self.unpack(made, source), "imgpull-image")

    def told(self, layer: int, made: Image, state: str) -> bool:
        chain_id = made.layers[layer].chain_id
        return any(
            isinstance(event, LayerChanged) and (event.chain_id, event.state) == (chain_id, state)
            for event in self.events
        )

    def filled(self, layer: int, made: Image) -> None:
        """Wait until a layer has had its slot and given it back, uncommitted."""
        until(lambda: self.told(layer, made, "unpacking") and self.slots.free == self.slots.count, "its entries")
        assert not self.has(layer, made)

    def has(self, layer: int, made: Image) -> bool:
        return made.layers[layer].chain_id in self.store.snapshots

    def actives(self) -> list[str]:
        return [info.name for info in self.store.snapshots.walk() if info.kind == "active"]


@contextmanager
def bench(root: Path, keys: KeyedLock | None = None, slots: int = 1) -> Iterator[Bench]:
    made = Bench(root, KeyedMutex() if keys is None else keys, slots)
    with made.store:
        yield made
        assert made.slots.free == made.slots.count
        assert len(made.keys) == 0
        assert made.actives() == []


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "store") as made:
        yield made


def held_open() -> list[str]:
    """Directories inside layers that this process has open, for speed alone."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            place = os.readlink(f"/proc/self/fd/{number}")
            if re.search(r"/fs/.", place):
                found.append(place)
    return found


def plain_image(layers: int, mark: str = "") -> Image:
    return image(*(archive(D("d"), F(f"d/{number}", mark.encode())) for number in range(layers)))


def digests(made: Image) -> list[Digest]:
    return [layer.digest for layer in made.layers]


# -- the order of a layer and its parent --------------------------------------------------------------------------


def test_an_upper_layer_is_applied_before_its_parent(room: Bench) -> None:
    made = plain_image(2)
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(made.layers[1].digest)
    room.filled(1, made)
    source.open_gate(made.layers[0].digest)
    worker.outcome()
    assert room.unpacker.apply_modes == {"direct": 1, "settled": 1}


def test_a_layer_whose_parent_is_there_is_applied_upon_it(room: Bench) -> None:
    made = plain_image(3)
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    until(lambda: len(source.opened) == 3, "all keys to be taken")
    for layer in range(3):
        source.open_gate(made.layers[layer].digest)
        until(lambda layer=layer: len(room.keys) == 2 - layer, "its key to be given back")  # type: ignore[misc]
    worker.outcome()
    assert room.unpacker.apply_modes == {"direct": 3}


def test_links_of_the_bottom_layer_are_seen_before_it_is_committed(room: Bench) -> None:
    base = archive(D("usr"), D("usr/lib"), S("lib", "usr/lib"))
    made = image(base, archive(F("other")), archive(F("lib/x", b"x")))
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(made.layers[2].digest)
    room.filled(2, made)  # not yet: it waits for the bottom layer's entries, its slot lent
    source.open_gate(made.layers[0].digest)
    until(lambda: room.told(0, made, "applied"), "the bottom layer")
    source.open_gate(made.layers[1].digest)
    worker.outcome()
    assert room.unpacker.apply_modes["again"] == 0 and room.unpacker.apply_modes["settled"] >= 1
    with room.store.snapshots.view(made.layers[2].chain_id) as rootfs:
        assert rootfs.read_bytes("usr/lib/x") == b"x"


def test_the_slot_is_kept_where_the_bottom_layer_is_there_already(room: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """To lend it would be to queue for it again, behind all others."""
    made = image(archive(S("lib", "usr/lib")), archive(F("other")), archive(F("lib/x")))
    source = GatedSource(made.blobs, digests(made))
    lent, real = list[bool](), Slot.lent

    def counted(slot: Slot) -> AbstractContextManager[None]:
        lent.append(slot.held)
        return real(slot)

    monkeypatch.setattr(Slot, "lent", counted)
    worker = room.start(made, source)
    source.open_gate(made.layers[0].digest)
    until(lambda: room.told(0, made, "applied"), "the bottom layer")
    source.open_gate(made.layers[2].digest)
    room.filled(2, made)
    source.open_gate(made.layers[1].digest)
    worker.outcome()
    assert lent == [False] * 3  # each waited for its bytes, before it had a slot
    assert room.unpacker.apply_modes == {"direct": 2, "settled": 1}


def test_a_link_that_nobody_could_see_has_the_layer_applied_again(room: Bench) -> None:
    made = image(archive(F("usr/lib/y")), archive(S("lib", "usr/lib")), archive(F("lib/x", b"x")))
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(made.layers[0].digest)
    until(lambda: room.told(0, made, "applied"), "the bottom layer")
    source.open_gate(made.layers[2].digest)
    room.filled(2, made)
    source.open_gate(made.layers[1].digest)
    worker.outcome()
    assert room.unpacker.apply_modes["again"] == 1
    with room.store.snapshots.view(made.layers[2].chain_id) as rootfs:
        assert rootfs.read_bytes("usr/lib/x") == b"x"


def test_a_whiteout_after_what_it_changes(tmp_path: Path) -> None:
    made = image(archive(S("lib", "usr/lib"), D("usr/lib")), archive(F("lib/x", b"1"), F(".wh.lib")))
    for number, first in enumerate((0, 1)):
        with bench(tmp_path / str(number)) as room:
            source = GatedSource(made.blobs, digests(made))
            worker = room.start(made, source)
            source.open_gate(made.layers[first].digest)
            until(lambda: room.told(first, made, "unpacking"), "the first one")  # noqa: B023
            source.open_gate(made.layers[1 - first].digest)
            worker.outcome()
            with room.store.snapshots.view(made.layers[1].chain_id) as rootfs:
                assert sorted(rootfs.listdir("lib")) == ["x"] and not rootfs.listdir("usr/lib")


# -- slots, keys and the window -----------------------------------------------------------------------------------


def test_who_waits_for_its_parent_has_no_slot(room: Bench) -> None:
    made, other = plain_image(3), plain_image(1, "other")
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(*digests(made)[1:])
    room.filled(2, made)
    room.filled(1, made)
    room.unpack(other, GatedSource(other.blobs))  # needs the only slot there is
    assert not worker.result and not room.has(0, made)
    source.open_gate(made.layers[0].digest)
    worker.outcome()


def test_who_waits_for_bytes_lends_its_slot(room: Bench) -> None:
    made, other = plain_image(1), plain_image(1, "other")
    gate = threading.Event()
    readers: list[SlowReader] = []

    class Following:
        @contextmanager
        def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Iterator[SlowReader]:
            readers.append(SlowReader(made.blobs[digest], gate, cancel, waiting))
            yield readers[0]

    worker = room.start(made, Following())
    until(lambda: readers and readers[0].blocked.is_set(), "the reader to wait")
    until(lambda: room.slots.free, "its slot")
    assert not held_open()
    room.unpack(other, GatedSource(other.blobs))
    gate.set()
    worker.outcome()
    assert room.has(0, made)


def test_who_waits_for_bytes_upon_its_parents_holds_nothing_open(room: Bench) -> None:
    base = image(archive(F("d/e/f")))
    room.unpack(base, GatedSource(base.blobs))
    made = image(*base.blobs.values(), archive(F("d/e/g", bytes(2048))))
    gate, readers = threading.Event(), list[SlowReader]()

    class Following:
        @contextmanager
        def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Iterator[SlowReader]:
            readers.append(SlowReader(made.blobs[digest], gate, cancel, waiting))
            yield readers[0]

    worker = room.start(made, Following())
    until(lambda: readers and readers[0].blocked.is_set() and room.slots.free, "the reader to wait")
    assert held_open() == []
    gate.set()
    worker.outcome()
    assert room.unpacker.apply_modes == {"direct": 2}


def test_a_commit_holds_nothing_open(room: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the disk, out of any slot."""
    base = [F(f"d{n}/e/f") for n in range(9)]
    upper = [entry for n in range(9) for entry in (D(f"d{n}"), D(f"d{n}/e"), F(f"d{n}/e/g"))]
    made = image(archive(*base), archive(*upper))
    commit, held, free = Snapshots.commit, list[list[str]](), list[int]()

    def looked_at(*arguments: Any, **more: Any) -> Any:
        held.append(held_open())
        free.append(room.slots.free)
        return commit(*arguments, **more)

    monkeypatch.setattr(Snapshots, "commit", looked_at)
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(made.layers[1].digest)
    room.filled(1, made)
    source.open_gate(made.layers[0].digest)
    worker.outcome()
    assert room.unpacker.apply_modes == {"direct": 1, "settled": 1}
    assert held == [[], []] and free == [1, 1]


def test_a_parent_on_disk_is_applied_upon_whoever_made_it(room: Bench) -> None:
    """The layer below is on its way in this pull, too, when another pull (or process) has committed it."""
    made = plain_image(2)
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    until(lambda: len(source.opened) == 2, "both keys to be taken")
    single = image(made.blobs[made.layers[0].digest])
    other = Unpacker(room.store, KeyedMutex(), room.slots, "overlay", Limits())
    other.unpack(single.layers, single.descriptors, GatedSource(made.blobs), room.cancel, room.events.append)
    source.open_gate(made.layers[1].digest)
    until(lambda: room.has(1, made), "the upper layer")
    source.open_gate(made.layers[0].digest)
    worker.outcome()
    assert room.unpacker.apply_modes["direct"] == 2


@pytest.mark.parametrize(("slots", "hands"), [(1, 8), (9, 8)])
def test_the_window(tmp_path: Path, slots: int, hands: int) -> None:
    made = plain_image(12)
    with bench(tmp_path / "store", slots=slots) as room:
        source = GatedSource(made.blobs, digests(made))
        worker = room.start(made, source)
        until(lambda: len(source.opened) == hands, "the window")
        source.open_gate(*digests(made)[1:])
        for layer in range(1, hands):
            room.filled(layer, made)
        assert set(source.opened) == set(digests(made)[:hands])
        assert (
            len([thread for thread in threading.enumerate() if thread.name.startswith("imgpull-image/")]) == hands - 1
        )
        source.open_gate(made.layers[0].digest)
        worker.outcome()
        assert sum(room.unpacker.apply_modes.values()) == 12


def test_forty_layers_the_largest_on_top(tmp_path: Path) -> None:
    """Those that were begun early wait for all below them; there are threads left for these."""
    made = image(*(archive(F(f"f{number}", bytes(1 << 20 if number >= 36 else 1))) for number in range(40)))
    with bench(tmp_path / "store", slots=1) as room:
        source = GatedSource(made.blobs, digests(made))
        worker = room.start(made, source)
        until(lambda: len(source.opened) == 8, "the window")
        assert set(source.opened) == {digests(made)[at] for at in (0, 1, 2, 3, 36, 37, 38, 39)}
        source.open_gate(*digests(made)[1:])
        room.filled(39, made)
        source.open_gate(digests(made)[0])
        worker.outcome()
        assert sum(room.unpacker.apply_modes.values()) == 40


def test_small_layers_are_begun_in_their_order(room: Bench) -> None:
    made = image(*(archive(F(f"f{number}", bytes(1024 * number))) for number in range(40)))
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    until(lambda: len(source.opened) == 8, "the window")
    assert set(source.opened) == set(digests(made)[:8])
    source.open_gate(*digests(made))
    worker.outcome()


def test_a_larger_layer_takes_over_between_two_blocks(room: Bench) -> None:
    small = image(archive(F("a", bytes(2 << 20)), F("b")))
    large = image(archive(F("a", bytes(3 << 20))))
    made = image(archive(F("base")), *small.blobs.values(), *large.blobs.values())
    gates = {layer.digest: threading.Event() for layer in made.layers}
    order: list[Digest] = []

    class Reader:
        def __init__(self, digest: Digest, waiting: Waiting) -> None:
            self._digest, self._waiting, self._file = digest, waiting, io.BytesIO(made.blobs[digest])

        def readinto(self, buffer: memoryview, /) -> int:
            order.append(self._digest)
            if self._digest == small.layers[0].digest and order.count(self._digest) == 2:
                gates[large.layers[0].digest].set()  # its bytes are here: it queues for the only slot
                until(lambda: room.slots._queue, "the larger one to queue")
            return self._file.readinto(buffer)

    class Source:
        @contextmanager
        def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Iterator[Reader]:
            with waiting():
                assert gates[digest].wait(20)
            yield Reader(digest, waiting)

    worker = room.start(made, Source())
    gates[small.layers[0].digest].set()
    until(lambda: room.told(1, made, "unpacking") and room.slots.free == 1, "both")
    gates[made.layers[0].digest].set()
    worker.outcome()
    first, other = small.layers[0].digest, large.layers[0].digest
    begun = order.index(other)
    assert order[:begun] == [first, first]  # not one more
    assert order[begun:].index(first) > order[begun:].count(other) - 1


@pytest.mark.parametrize("name", ["lib/x", "usr/lib/x"])
def test_a_name_that_the_bottom_layer_has_by_now_is_waited_for_no_longer(tmp_path: Path, name: str) -> None:
    base = archive(D("usr"), D("usr/lib"), S("lib", "usr/lib"), F("big", bytes(4096)))
    made = image(base, archive(F("other")), archive(F(name, b"x")))
    gate, readers = threading.Event(), list[SlowReader]()

    class Slow(GatedSource):
        @contextmanager
        def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Iterator[Any]:
            with super().open(digest, cancel, waiting) as reader:
                if digest != made.layers[0].digest:
                    yield reader
                else:
                    readers.append(SlowReader(made.blobs[digest], gate, cancel, waiting))
                    yield readers[0]

    with bench(tmp_path / "store", slots=1) as room:
        source = Slow(made.blobs, digests(made))
        worker = room.start(made, source)
        source.open_gate(made.layers[2].digest)
        room.filled(2, made)  # not yet: there is no lib, its slot is lent
        source.open_gate(made.layers[0].digest)
        until(lambda: readers and readers[0].blocked.is_set(), "the bottom layer to stand still")
        until(lambda: room.store.snapshots and _has(room, "x"), "the upper layer's file")
        assert not room.told(0, made, "applied")
        source.open_gate(made.layers[1].digest)
        gate.set()
        worker.outcome()
        assert room.unpacker.apply_modes["again"] == 0
        with room.store.snapshots.view(made.layers[2].chain_id) as rootfs:
            assert rootfs.read_bytes("usr/lib/x") == b"x"


def _has(room: Bench, name: str) -> bool:
    return any(name in files for _, _, files in os.walk(room.store.root))


def test_without_suppression_layers_come_one_by_one_on_the_pulls_own_thread(tmp_path: Path) -> None:
    made = plain_image(4)
    threads: set[str] = set()

    class Counting(GatedSource):
        def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> AbstractContextManager[object]:  # type: ignore[override]
            threads.add(threading.current_thread().name)
            assert all(room.has(layer, made) for layer in range(digests(made).index(digest)))
            return super().open(digest, cancel, waiting)

    with bench(tmp_path / "store", NoSuppression(), slots=4) as room:
        room.start(made, Counting(made.blobs)).outcome()
        assert room.unpacker.apply_modes == {"direct": 4}
    assert threads == {"imgpull-image"}


@pytest.mark.parametrize("turned", [False, True])
def test_two_images_share_a_prefix(room: Bench, turned: bool) -> None:
    """Each chain is applied once, whoever of the two comes by the shared layers first."""
    base = [archive(D("d"), F("d/base")), archive(F("d/more"))]
    pair = [image(*base, archive(F("d/one"))), image(*base, archive(F("d/two"), F("d/.wh.base")))]
    first, second = reversed(pair) if turned else pair
    early, late = GatedSource(first.blobs, digests(first)), GatedSource(second.blobs, digests(second))
    one = room.start(first, early)
    until(lambda: len(early.opened) == 3, "the first image's keys")
    two = room.start(second, late)
    until(lambda: len(late.opened) == 1, "the second image's own layer")
    late.open_gate(*digests(second))
    room.filled(2, second)
    early.open_gate(first.layers[2].digest, first.layers[1].digest)
    room.filled(2, first)
    early.open_gate(first.layers[0].digest)
    one.outcome(), two.outcome()
    applied = [e.chain_id for e in room.events if isinstance(e, LayerChanged) and e.state == "applied"]
    assert sorted(applied) == sorted({layer.chain_id for made in pair for layer in made.layers})
    assert late.opened == [second.layers[2].digest]


# -- what goes wrong ----------------------------------------------------------------------------------------------


def failing_fetch(source: GatedSource, digest: Digest) -> None:
    source.error[digest] = RegistryUnavailableError("gone", registry="example.com")


def wrong_bytes(source: GatedSource, digest: Digest) -> None:
    source.blobs[digest] = source.blobs[digest][:700]


@pytest.mark.parametrize(
    ("spoil", "error"), [(failing_fetch, RegistryUnavailableError), (wrong_bytes, InvalidArchiveError)]
)
def test_an_error_in_the_middle(
    room: Bench, spoil: Callable[[GatedSource, Digest], None], error: type[Exception]
) -> None:
    made = plain_image(4)
    source = GatedSource(made.blobs, digests(made))
    spoil(source, made.layers[2].digest)
    worker = room.start(made, source)
    source.open_gate(made.layers[0].digest)
    until(lambda: room.told(0, made, "applied"), "the bottom layer")
    source.open_gate(made.layers[3].digest)
    room.filled(3, made)
    source.open_gate(made.layers[2].digest)
    with pytest.raises(error) as caught:
        worker.outcome()
    assert getattr(caught.value, "__notes__", []) == []
    assert [room.has(layer, made) for layer in range(4)] == [True, False, False, False]


def test_a_second_error_is_a_note_of_the_first(room: Bench) -> None:
    made = plain_image(2)
    gate, blocked = threading.Event(), threading.Event()

    class Stubborn:
        """The upper layer's bytes don't come, and it is not to be cancelled."""

        @contextmanager
        def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Iterator[SlowReader]:
            if digest == made.layers[1].digest:
                blocked.set()
                gate.wait(20)
                raise RegistryUnavailableError("second", registry="example.com")
            blocked.wait(20)
            cancel.add_callback(gate.set)
            raise RegistryUnavailableError("first", registry="example.com")
            yield

    with pytest.raises(RegistryUnavailableError, match="first") as caught:
        room.start(made, Stubborn()).outcome()
    assert caught.value.__notes__ == ["also: second"]


def test_cancelled_while_it_waits_for_its_parent(room: Bench) -> None:
    made = plain_image(3)
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(*digests(made)[1:])
    room.filled(1, made)
    room.filled(2, made)
    room.cancel.cancel()
    with pytest.raises(PullCancelledError):
        worker.outcome()
    assert not any(room.has(layer, made) for layer in range(3))


def test_cancelled_while_it_waits_for_links(room: Bench) -> None:
    made = image(archive(S("lib", "usr/lib")), archive(F("lib/x")))
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(made.layers[1].digest)
    room.filled(1, made)
    room.cancel.cancel()
    with pytest.raises(PullCancelledError):
        worker.outcome()


def test_a_committed_parent_is_held_until_the_layer_above_rests_on_it(room: Bench) -> None:
    made = plain_image(2)
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    until(lambda: len(source.opened) == 2, "both keys to be taken")
    source.open_gate(made.layers[0].digest)
    until(lambda: len(room.keys) == 1, "the bottom layer")
    with pytest.raises(Exception, match="right now"):
        room.store.snapshots.remove(made.layers[0].chain_id)
    source.open_gate(made.layers[1].digest)
    worker.outcome()
    room.store.snapshots.remove(made.layers[1].chain_id)
    room.store.snapshots.remove(made.layers[0].chain_id)


@pytest.mark.parametrize("justified", [False, True])
def test_an_entry_that_only_the_parents_can_justify(room: Bench, justified: bool) -> None:
    """A hard link to what it takes the place of is refused, unless its target's name leads through a lower link."""
    middle = S("l", "d") if justified else F("other")
    made = image(archive(F("base")), archive(middle), archive(F("d/x", b"x"), H("l", "l/x")))
    source = GatedSource(made.blobs, digests(made))
    worker = room.start(made, source)
    source.open_gate(made.layers[0].digest, made.layers[2].digest)
    until(lambda: room.told(0, made, "applied"), "the bottom layer")
    room.filled(2, made)
    source.open_gate(made.layers[1].digest)
    if not justified:
        with pytest.raises(InvalidArchiveError, match="takes the place"):
            worker.outcome()
        assert source.opened.count(made.layers[2].digest) == 1  # told by what was assumed, and that was true
        return
    worker.outcome()
    assert room.unpacker.apply_modes["again"] == 1
    with room.store.snapshots.view(made.layers[2].chain_id) as rootfs:
        assert rootfs.read_bytes("l") == b"x"


# -- the result ---------------------------------------------------------------------------------------------------


def facts(store: Store, chain_id: Digest) -> object:
    with store.snapshots.merged(chain_id) as tree:
        own = tree.layers[-1]
        info = store.snapshots.stat(chain_id)
        counts = (info.size_bytes, info.inodes, info.parent, info.diff_id)
        return read_tree(Path(own.root)), own.whiteouts, own.opaques, own.modes, counts


def gate_order(order: str, layers: list[Digest], chooser: random.Random) -> list[Digest]:
    if order == "any":
        return chooser.sample(layers, len(layers))
    return layers[::-1] if order == "top first" else layers


@pytest.mark.parametrize("order", ["bottom first", "top first", "any"])
def test_random_images_come_out_as_if_serially(tmp_path: Path, order: str) -> None:
    chooser = random.Random(order)
    with bench(tmp_path / "serial", NoSuppression()) as serial, bench(tmp_path / "parallel", slots=2) as parallel:
        for number in range(30):
            place = tmp_path / f"trial-{number}"
            place.mkdir()
            made = random_image(chooser, f"{order} {number}", place)
            serial.start(made, GatedSource(made.blobs)).outcome()
            source = GatedSource(made.blobs, digests(made))
            worker = parallel.start(made, source)
            for digest in gate_order(order, digests(made), chooser):
                source.open_gate(digest)
                if order != "any":
                    layer = digests(made).index(digest)
                    until(lambda: parallel.told(layer, made, "unpacking"), "its turn")  # noqa: B023
            worker.outcome()
            for chain_id in [layer.chain_id for layer in made.layers]:
                assert facts(serial.store, chain_id) == facts(parallel.store, chain_id)
        apply_modes = parallel.unpacker.apply_modes
        assert sum(apply_modes.values()) == 120 and min(apply_modes["direct"], apply_modes["settled"]) > 10, apply_modes
