"""The unpacker: turns an image's layers into a chain of snapshots, each chain applied once.

The seed's ``unpacker.unpack``, with its order kept: for each layer, bottom-up, hold ``sn://<snapshotter>/<chainID>``,
look, prepare, wait for the blob, apply, verify the diff ID, commit, record the diff ID. What was mended on the way:
every exit removes the active snapshot, also the one after a failed fetch, and with no help from a cancelled context.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from imgpull.errors import AlreadyExistsError, ContentNotFoundError, SnapshotNotFoundError
from imgpull.events import EventSink, LayerChanged, LayerState, LeftOut, Woken
from imgpull.limits import Limits
from imgpull.locking import Cancellation, KeyedLock, Slots
from imgpull.oci import EMPTY_CHAIN_ID, Descriptor, Digest
from imgpull.store import Store
from imgpull.store.images import Layer
from imgpull.store.snapshots import Active, Journal, inherited_labels
from imgpull.unpack.applier import WhiteoutOrderError
from imgpull.unpack.decompress import Readable
from imgpull.unpack.layer import apply_layer
from imgpull.unpack.marks import Marks

__all__ = ["LayerSource", "Unpacker"]

_PREPARE_TRIES = 3  # containerd core/unpack: an active snapshot "already exists", its chain does not; rare, so log it
_log = logging.getLogger("imgpull.unpack")


class LayerSource(Protocol):
    """Where a layer's compressed bytes come from."""

    def open(self, digest: Digest) -> AbstractContextManager[Readable]:
        """Waits until the bytes can be read. Raises what the fetch raised."""


class Unpacker:
    """Applies layers under one snapshotter's name. One per Puller; :meth:`unpack` runs on each image's own thread."""

    def __init__(self, store: Store, keys: KeyedLock, slots: Slots, snapshotter: str, limits: Limits) -> None:
        self._store = store
        self._snapshots = store.snapshots
        self._keys = keys
        self._slots = slots
        self._snapshotter = snapshotter
        self._limits = limits

    def unpack(
        self,
        layers: Sequence[Layer],
        descriptors: Sequence[Descriptor],
        source: LayerSource,
        cancel: Cancellation,
        say: EventSink,
    ) -> None:
        """Makes the snapshot of every layer's chain, bottom-up; an image without layers gets the empty one.

        ``descriptors``: the layers' own, in the same order; some of their annotations become snapshot labels. The
        first error is raised; the chains below it stay committed.
        """
        if not layers:
            self._commit_empty(cancel)
        for layer in layers:
            say(LayerChanged(layer.digest, layer.chain_id, "waiting"))
        parent: Digest | None = None
        for layer, descriptor in zip(layers, descriptors, strict=True):
            labels = inherited_labels(descriptor.annotations)
            self._unpack_layer(layer, parent, labels, source, cancel, say)
            parent = layer.chain_id

    def _unpack_layer(
        self,
        layer: Layer,
        parent: Digest | None,
        labels: Mapping[str, str],
        source: LayerSource,
        cancel: Cancellation,
        say: EventSink,
    ) -> None:
        def told(state: LayerState) -> None:
            say(LayerChanged(layer.digest, layer.chain_id, state))

        key = f"sn://{self._snapshotter}/{layer.chain_id}"
        with self._keys.hold(key, cancel=cancel) as held:
            if held.waited:
                say(Woken(key, found_held=False, slept_seconds=0.0))
            hidden: Marks | None = None
            while (active := self._prepare(layer.chain_id, parent, labels)) is not None:
                try:
                    with source.open(layer.digest) as readable, self._slots.take(cancel):
                        told("unpacking")
                        left_out = self._apply(readable, layer, parent, active, labels, hidden, cancel)
                    if left_out:
                        say(LeftOut(layer.digest, layer.chain_id, tuple(sorted(left_out.items()))))
                    told("applied")
                    return
                except BaseException as error:
                    with suppress(SnapshotNotFoundError):  # what failed may have come after the commit
                        self._snapshots.remove(active.key)
                    if not isinstance(error, WhiteoutOrderError) or hidden is not None:
                        raise
                    hidden = error.hidden  # a whiteout came after what it changes: once more, knowing of it
            told("exists")

    def _prepare(self, chain_id: Digest, parent: Digest | None, labels: Mapping[str, str]) -> Active | None:
        """An active snapshot to apply a layer to, or None when its chain is provided already."""
        for attempt in range(1, _PREPARE_TRIES + 1):
            key = f"apply-{secrets.token_hex(8)} {chain_id}"
            try:
                return self._snapshots.prepare(key, parent, target=chain_id, labels=labels)
            except AlreadyExistsError:
                if chain_id in self._snapshots:
                    return None
                if attempt == _PREPARE_TRIES:
                    raise
                _log.debug("active snapshot %s exists, but chain %s does not: trying again", key, chain_id)
        raise AssertionError("unreachable")

    def _apply(
        self,
        readable: Readable,
        layer: Layer,
        parent: Digest | None,
        active: Active,
        labels: Mapping[str, str],
        hidden: Marks | None,
        cancel: Cancellation,
    ) -> Counter[str]:
        """Returns what was left out of the layer."""
        with self._snapshots.merged(parent) as lower:
            applied = apply_layer(readable, layer, active, lower, self._limits, cancel, hidden)
        try:
            self._snapshots.commit(
                layer.chain_id,
                active.key,
                journal=applied.journal,
                diff_id=layer.diff_id,
                size_bytes=applied.size_bytes,
                inodes=applied.inodes,
                labels=labels,
            )
        except AlreadyExistsError:
            # Another pull applied the same layer meanwhile (no suppression, or another process): wasted, not wrong.
            _log.debug("chain %s was committed by somebody else", layer.chain_id)
            self._snapshots.remove(active.key)
        self._remember_diff_id(layer)
        return applied.skipped

    def _remember_diff_id(self, layer: Layer) -> None:
        """Only ever called with what this process has verified; a claim of the config alone is worth nothing here."""
        try:
            self._store.content.record_diff_id(layer.digest, layer.diff_id)
        except ContentNotFoundError:
            _log.debug("blob %s went while its layer was applied", layer.digest)

    def _commit_empty(self, cancel: Cancellation) -> None:
        with self._keys.hold(f"sn://{self._snapshotter}/{EMPTY_CHAIN_ID}", cancel=cancel):
            active = self._prepare(EMPTY_CHAIN_ID, None, {})
            if active is None:
                return
            try:
                self._snapshots.commit(
                    EMPTY_CHAIN_ID, active.key, journal=Journal(), diff_id=EMPTY_CHAIN_ID, size_bytes=0, inodes=1
                )
            except AlreadyExistsError:
                self._snapshots.remove(active.key)
            except BaseException:
                self._snapshots.remove(active.key)
                raise
