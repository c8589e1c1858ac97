"""The unpacker: turns an image's layers into a chain of snapshots, each chain applied once.

Layers are applied side by side, each into a directory of its own, and committed bottom-up (:mod:`imgpull.unpack.step`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from imgpull.errors import AlreadyExistsError, SnapshotNotFoundError
from imgpull.events import EventSink, LayerChanged
from imgpull.limits import Limits
from imgpull.locking import Cancellation, KeyedLock, Slots
from imgpull.oci import EMPTY_CHAIN_ID, Descriptor, Digest
from imgpull.store import Parts, Store
from imgpull.store.images import Layer
from imgpull.store.snapshots import Journal, inherited_labels
from imgpull.unpack.step import ApplyMode, ImageUnpack, LayerSource, Step, UnpackContext, prepare
from imgpull.unpack.workers import run_all

__all__ = ["Unpacker"]

_LARGE_SHARE = 8
"""A layer of less than an eighth of its image is begun in its turn. Commits go bottom-up, one after the other: where
all layers are small, that is what takes the time, and to begin with others than the lowest made it longer."""

_WORKERS = 8
"""Layers of one image on their way at once. More than slots, since one that waits for its parent has no slot, and a
large one far up is to begin early; not more than this, since each takes a thread, and of one that waits the directories
are in memory."""


class Unpacker:
    """Applies layers under one snapshotter's name. One per Puller; :meth:`unpack` runs on each image's own thread."""

    def __init__(self, store: Store | Parts, keys: KeyedLock, slots: Slots, snapshotter: str, limits: Limits) -> None:
        self._context = UnpackContext(store, keys, slots, snapshotter, limits)
        # Without suppression a pull's layers go one by one, as in containerd: the arms differ in one thing only.
        self._max_workers = _WORKERS if keys.exclusive else 1

    @property
    def apply_modes(self) -> Counter[ApplyMode]:
        """How many layers were applied in which way."""
        with self._context.lock:
            return self._context.apply_modes.copy()

    def unpack(
        self,
        layers: Sequence[Layer],
        descriptors: Sequence[Descriptor],
        source: LayerSource,
        cancel: Cancellation,
        say: EventSink,
    ) -> None:
        """Makes the snapshot of every layer's chain; an image without layers gets the empty one.

        ``descriptors``: the layers' own, in the same order; some of their annotations become snapshot labels. The
        first error is raised, others are its notes; the chains that were committed stay.
        """
        if not layers:
            self._commit_empty(cancel)
            return
        for layer in layers:
            say(LayerChanged(layer.digest, layer.chain_id, "waiting"))
        image = ImageUnpack(source, cancel.child(), say)
        weights = _weights(layers)
        steps: list[Step] = []
        parent: Digest | None = None
        for layer, descriptor in zip(layers, descriptors, strict=True):
            below = steps[-1] if steps else None
            labels = inherited_labels(descriptor.annotations)
            steps.append(Step(self._context, image, layer, parent, below, labels, weight=weights[len(steps)]))
            parent = layer.chain_id

        def end_all() -> None:
            for step in steps:
                step.end()

        forget = image.stop.add_callback(end_all)
        try:
            run_all([(step.run, step.weight) for step in steps], self._max_workers, image.stop)
        finally:
            forget()
            for step in steps:
                step.lease.close()

    def _commit_empty(self, cancel: Cancellation) -> None:
        snapshots = self._context.store.snapshots
        with self._context.keys.hold(self._context.key(EMPTY_CHAIN_ID), cancel=cancel):
            active = prepare(self._context.store, EMPTY_CHAIN_ID, {})
            if active is None:
                return
            try:
                with suppress(AlreadyExistsError):
                    snapshots.commit(
                        EMPTY_CHAIN_ID, active.key, journal=Journal(), diff_id=EMPTY_CHAIN_ID, size_bytes=0, inodes=1
                    )
            finally:
                with suppress(SnapshotNotFoundError):  # committed: the key is gone
                    snapshots.remove(active.key)


def _weights(layers: Sequence[Layer]) -> list[int]:
    """How much before others each is to be begun."""
    large = sum(layer.size_bytes for layer in layers) / _LARGE_SHARE
    return [layer.size_bytes if layer.size_bytes >= large else 0 for layer in layers]
