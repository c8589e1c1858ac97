"""One layer of one image, on its way to a committed chain.

::

    key ─▶ look ─▶ prepare ─▶ blob ─▶ slot ─▶ entries ─▶ (slot given back) ─▶ parent ─▶ settle ─▶ commit

The order of containerd's ``unpacker.unpack``. The blob may still arrive: the slot is lent while its bytes are awaited.
A layer whose parent is committed when its bytes come is applied upon it; any other is applied without, and settled once
the parent is there. Where what it had to assume turns out wrong it is applied again upon the parent: serial application
is the definition.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal, Protocol

from imgpull.errors import AlreadyExistsError, SnapshotNotFoundError
from imgpull.events import EventSink, LayerChanged, LayerState, LeftOut, Woken
from imgpull.limits import Limits
from imgpull.locking import Cancellation, KeyedLock, Slot, Slots
from imgpull.oci import Digest
from imgpull.store import IngestEnded, Parts, Store, Waiting
from imgpull.store.images import Layer
from imgpull.store.snapshots import Active, LayerTree, MergedTree, TreePath
from imgpull.unpack.applier import Applied, WhiteoutOrderError
from imgpull.unpack.assumption import AssumedLinks, KnownLinks, LowerLinks
from imgpull.unpack.decompress import Readable
from imgpull.unpack.glimpse import Glimpse
from imgpull.unpack.layer import UnsettledLayer
from imgpull.unpack.marks import Marks

__all__ = ["ApplyMode", "ImageUnpack", "LayerSource", "Step", "UnpackContext", "prepare"]

ApplyMode = Literal["direct", "settled", "again"]
"""Upon its committed parent · without it, then settled · without it, in vain, then upon it."""

_log = logging.getLogger("imgpull.unpack")


class LayerSource(Protocol):
    """Where a layer's compressed bytes come from."""

    def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> AbstractContextManager[Readable]:
        """Entering waits until there are bytes to read; it and the reader wait within ``waiting()``, since a thread
        that waits for bytes must not keep others from working. Leaving waits, where the bytes were read while they
        arrived, until they are the blob. Each raises what the fetch raised, PullCancelledError once ``cancel`` has
        fired, and IngestEnded where the blob arrives again. Used by several threads at once."""


@dataclass(frozen=True, slots=True)
class UnpackContext:
    """What all steps of an Unpacker share."""

    store: Store | Parts
    keys: KeyedLock
    slots: Slots
    snapshotter: str
    limits: Limits
    apply_modes: Counter[ApplyMode] = field(default_factory=Counter)
    # Guards apply_modes.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def key(self, chain_id: Digest) -> str:
        return f"sn://{self.snapshotter}/{chain_id}"

    def count(self, mode: ApplyMode) -> None:
        with self.lock:
            self.apply_modes[mode] += 1


@dataclass(frozen=True, slots=True)
class ImageUnpack:
    """What all steps of one image share."""

    source: LayerSource
    stop: Cancellation
    """Fires when the pull is cancelled, and when one of its layers has failed."""
    say: EventSink


class Step:
    """Makes one chain. :meth:`run` is called once, by a thread that keeps the chain's key meanwhile."""

    def __init__(
        self,
        context: UnpackContext,
        image: ImageUnpack,
        layer: Layer,
        parent: Digest | None,
        below: Step | None,
        labels: Mapping[str, str],
        weight: int = 0,
    ) -> None:
        self.chain_id = layer.chain_id
        self._context = context
        self._image = image
        self._layer = layer
        self._parent = parent
        self.below = below  # None: there is no parent
        self._labels = labels
        self.weight = weight
        """How much before other layers it is to be applied, in bytes."""
        self.scratch: Path | None = None
        """Where it is being applied."""
        self.moves = 0
        """Rises whenever this layer is to be looked for elsewhere, or in whole; written by its own thread alone."""
        self.entries_applied = threading.Event()
        """Set when all its entries were applied, or never will be by this step."""
        self._expected: dict[bytes, threading.Event] = {}  # paths that layers above wait for, until then
        self.committed = False
        self.finished = threading.Event()
        """Set when the chain is committed, and when the pull stops."""
        self.lease = ExitStack()
        """Holds the chain, once committed, until the layer above rests on it."""

    def run(self) -> None:
        """Make the chain, or find it made. Raises what went wrong; nothing active is left behind."""
        say, stop, key = self._image.say, self._image.stop, self._context.key(self.chain_id)
        with self._context.keys.hold(key, cancel=stop) as held:
            if held.waited:
                say(Woken(key, found_held=False, slept_seconds=0.0))
            state = self._make()
            self.lease.enter_context(self._context.store.snapshots.hold(self.chain_id))
            self._told(state)
            self._move(None)
            self.committed = True
            self.end()
        if self.below is not None and self.below.committed:
            self.below.lease.close()

    def end(self) -> None:
        """Wake those who wait for this layer."""
        self._entries_end()
        self.finished.set()

    def _entries_end(self) -> None:
        self.entries_applied.set()
        for path in tuple(self._expected):
            expected = self._expected.pop(path, None)
            if expected is not None:
                expected.set()

    def _told(self, state: LayerState) -> None:
        self._image.say(LayerChanged(self._layer.digest, self.chain_id, state))

    def _make(self) -> LayerState:
        hidden: Marks | None = None
        failed = False
        while (active := prepare(self._context.store, self.chain_id, self._labels)) is not None:
            self._move(active.path)
            try:
                mode = self._apply(active, hidden)
            except BaseException as error:
                self._remove(active)
                if isinstance(error, WhiteoutOrderError) and hidden is None:
                    hidden = error.hidden  # a whiteout came after what it changes: once more, knowing of it
                elif not isinstance(error, IngestEnded):
                    raise
                continue
            if mode is not None:
                self._context.count("again" if failed else mode)
                return "applied"
            self._remove(active)
            failed = True
            _log.debug("layer %s leads through links of its parents: applied again", self._layer.digest)
        return "exists"

    def _move(self, scratch: Path | None) -> None:
        self.scratch = scratch
        self.moves += 1

    def _remove(self, active: Active) -> None:
        self._move(None)
        with suppress(SnapshotNotFoundError):  # what failed may have come after the commit
            self._context.store.snapshots.remove(active.key)

    def _apply(self, active: Active, hidden: Marks | None) -> ApplyMode | None:
        """Apply and commit; None where what was assumed of the parents is not true."""
        with ExitStack() as lease:  # on the parent, until the commit is done
            settled = self._settle(active, hidden, lease)
            if settled is None:
                return None
            mode, applied = settled
            # Nothing is open any more: a commit waits for the disk, and many do so at once.
            self._commit(active, applied)
        return mode

    def _settle(self, active: Active, hidden: Marks | None, lease: ExitStack) -> tuple[ApplyMode, Applied] | None:
        mode: ApplyMode = "direct"
        with ExitStack() as closing:
            unsettled = self._fill(active, hidden, lease, closing)
            lower = unsettled.lower
            if lower is None:
                mode = "settled"
                self._await_parent()
            # In a slot, since an unsettled layer and its parents' view hold descriptors.
            # Before all entries, for the next layer waits.
            with self._context.slots.take(self._image.stop, inf):
                if lower is None:
                    lower = self._parents(lease, closing)
                    assert lower is not None, "the layer below holds it"
                    if not unsettled.holds(lower):
                        return None
                return mode, unsettled.settle(lower)

    def _fill(self, active: Active, hidden: Marks | None, lease: ExitStack, closing: ExitStack) -> UnsettledLayer:
        """Apply the entries, in a slot."""
        image, layer = self._image, self._layer
        # The bottom layer before all others: they ask for what it has, and the next one is committed upon it.
        slot = self._context.slots.take(image.stop, inf if self.below is None else self.weight)
        holding: list[UnsettledLayer] = []
        with image.source.open(layer.digest, image.stop, lambda: _waiting(slot, holding)) as readable, slot:
            self._told("unpacking")
            links = self._lower_links(slot, holding, lease, closing)
            unsettled = closing.enter_context(
                UnsettledLayer(layer, active, links, self._context.limits, image.stop, hidden, self._expected)
            )
            holding.append(unsettled)
            unsettled.fill(_Turns(readable, slot, lambda: _waiting(slot, holding)))
        self.moves += 1
        self._entries_end()
        return unsettled

    def _lower_links(
        self, slot: Slot, holding: Sequence[UnsettledLayer], lease: ExitStack, closing: ExitStack
    ) -> LowerLinks:
        """The parents, where they are committed by now."""
        lower = self._parents(lease, closing)
        if lower is not None:
            return KnownLinks(lower)
        bottom = self
        while bottom.below is not None:
            bottom = bottom.below

        def wait(path: TreePath, there: Callable[[], bool]) -> bool:
            return bottom.await_name(path, there, lambda: _waiting(slot, holding))

        glimpse = Glimpse(wait, self._layers_below, self._moves_below)
        return AssumedLinks(glimpse.link_target, glimpse.close)

    def _parents(self, lease: ExitStack, closing: ExitStack) -> MergedTree | None:
        """The parents' view, None where they are not on disk. By whom they were committed does not matter."""
        snapshots = self._context.store.snapshots
        if self._parent is not None:
            try:
                lease.enter_context(snapshots.hold(self._parent))
            except SnapshotNotFoundError:
                return None
        return closing.enter_context(snapshots.merged(self._parent))

    def await_name(self, path: TreePath, there: Callable[[], bool], waiting: Waiting) -> bool:
        """Until this layer has a directory or symbolic link there, or all its entries; returns whether it had to be
        waited for, ``waiting()`` entered meanwhile. For the bottom layer, which as a rule has what others lead through.
        """
        self._image.stop.raise_if_cancelled()
        if self.entries_applied.is_set():
            return False
        # In this order: what comes after ``there()`` has looked finds the event, and so does who ends the entries.
        expected = self._expected.setdefault(b"/".join(path), threading.Event())
        if there() or self.entries_applied.is_set():
            return False
        with waiting():
            expected.wait()
        self._image.stop.raise_if_cancelled()
        return True

    def _moves_below(self) -> int:
        moves, step = 0, self.below
        while step is not None:
            moves += step.moves
            step = step.below
        return moves

    def _layers_below(self) -> list[LayerTree]:
        """What the layers below lie in now, bottom first; nothing for one that has not begun."""
        snapshots = self._context.store.snapshots
        found: list[LayerTree] = []
        step = self.below
        # Not by step.committed, which comes after: between two looks what moves is always in one place or the other.
        while step is not None and step.chain_id not in snapshots:
            scratch = step.scratch
            if scratch is not None:
                found.append(LayerTree(scratch))
            step = step.below
        if step is None:
            return found[::-1]
        with snapshots.merged(step.chain_id) as tree:
            return [*tree.layers, *found[::-1]]

    def _await_parent(self) -> None:
        assert self.below is not None
        self.below.finished.wait()
        self._image.stop.raise_if_cancelled()

    def _commit(self, active: Active, applied: Applied) -> None:
        layer, store = self._layer, self._context.store
        try:
            store.snapshots.commit(
                layer.chain_id,
                active.key,
                journal=applied.journal,
                diff_id=layer.diff_id,  # of the blob: only ever what this process has verified, no claim of a config
                blob=layer.digest,
                size_bytes=applied.size_bytes,
                inodes=applied.inodes,
                labels=self._labels,
                parent=self._parent,
            )
        except AlreadyExistsError:
            # Another pull applied the same layer meanwhile (no suppression, or another process): wasted, not wrong.
            _log.debug("chain %s was committed by somebody else", layer.chain_id)
            store.snapshots.remove(active.key)
            store.content.record_diff_id(layer.digest, layer.diff_id)
        if applied.skipped:
            self._image.say(LeftOut(layer.digest, layer.chain_id, tuple(sorted(applied.skipped.items()))))


@contextmanager
def _waiting(slot: Slot, holding: Sequence[UnsettledLayer]) -> Iterator[None]:
    """While this thread waits for bytes, as eight layers of each pull may, it keeps neither a slot nor descriptors."""
    for unsettled in holding:
        unsettled.release_descriptors()
    with slot.lent():
        yield


class _Turns:
    """A layer's bytes, and before each block of them a look whether a layer with more to do waits for the slot. Which
    layer's bytes come first would decide otherwise: the largest began last, and ran alone while a CPU was idle."""

    def __init__(self, source: Readable, slot: Slot, waiting: Waiting) -> None:
        self._source = source
        self._slot = slot
        self._waiting = waiting

    def readinto(self, buffer: memoryview, /) -> int | None:
        if self._slot.outweighed:
            with self._waiting():
                pass
        return self._source.readinto(buffer)


def prepare(store: Store | Parts, chain_id: Digest, labels: Mapping[str, str]) -> Active | None:
    """An active snapshot to apply a layer to, or None when its chain is provided already.

    Without a parent, which is given at the commit: a layer's own directory inherits nothing, whether its parent is
    known or not, and what the layer does not say of the root is settled like any other implied directory.
    """
    with suppress(AlreadyExistsError):
        return store.snapshots.prepare(f"apply-{secrets.token_hex(8)} {chain_id}", target=chain_id, labels=labels)
    return None
