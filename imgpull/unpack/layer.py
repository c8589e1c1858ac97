"""One layer: its bytes are inflated, digested and applied in one pass, and believed only at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

from imgpull.errors import DiffIDMismatchError
from imgpull.limits import Limits
from imgpull.locking import Cancellation
from imgpull.oci import Digest, Hasher
from imgpull.store.images import Layer
from imgpull.store.snapshots import Active, MergedTree
from imgpull.unpack.applier import Applied, Applier
from imgpull.unpack.decompress import Readable, decompressed
from imgpull.unpack.marks import Marks
from imgpull.unpack.tar import TarReader

__all__ = ["apply_layer"]


def apply_layer(
    source: Readable,
    layer: Layer,
    active: Active,
    lower: MergedTree,
    limits: Limits,
    cancel: Cancellation,
    hidden: Marks | None = None,
) -> Applied:
    """Applies a layer's compressed bytes to ``active``'s own directory, over the parents' merged view ``lower``.

    The diff ID covers every byte of the uncompressed stream, also those after the end-of-archive marker (image-spec
    config.md, "Layer DiffID"). Raises DiffIDMismatchError, UnpackError, StoreFullError, PullCancelledError; what
    was written until then stays in ``active``, which the caller removes. ``hidden``: what a WhiteoutOrderError of an
    earlier try said.
    """
    hasher = layer.diff_id.hasher()
    chunks = decompressed(source, limits, layer=layer.digest)
    reader = TarReader(_digested(chunks, hasher, cancel), limits, layer.digest)
    root_fd = os.open(active.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with Applier(
            root_fd, lower, privileged=os.geteuid() == 0, limits=limits, layer=layer.digest, hidden=hidden
        ) as applier:
            applied = applier.apply(reader)
        reader.drain()
    finally:
        os.close(root_fd)
    actual = Digest.of(layer.diff_id.algorithm, hasher.hexdigest())
    if actual != layer.diff_id:
        raise DiffIDMismatchError(
            f"layer {layer.digest} unpacks to {actual}, but the image's config promises {layer.diff_id}",
            expected=layer.diff_id,
            actual=actual,
        )
    return applied


def _digested(
    chunks: Iterator[bytes | memoryview], hasher: Hasher, cancel: Cancellation
) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        cancel.raise_if_cancelled()
        hasher.update(chunk)
        yield chunk
