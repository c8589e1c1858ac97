"""One layer: its bytes are inflated, digested and applied in one pass, and believed only at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from imgpull.errors import DiffIDMismatchError, LimitExceededError, UnpackError
from imgpull.limits import Limits
from imgpull.locking import Cancellation
from imgpull.oci import Digest, Hasher
from imgpull.store.images import Layer
from imgpull.store.snapshots import Active, MergedTree
from imgpull.unpack.applier import Applied, Applier
from imgpull.unpack.assumption import LowerLinks
from imgpull.unpack.decompress import Readable, decompressed
from imgpull.unpack.marks import Marks
from imgpull.unpack.tar import TarReader

__all__ = ["UnsettledLayer"]


class UnsettledLayer:
    """A layer in ``active``'s own directory, from its first byte until it is settled. Use it in a ``with`` block.

    ``lower_links``: the parents, or what is assumed of them. ``hidden``: what a WhiteoutOrderError said.
    ``expected``: what others wait for, see OwnTree.
    After an error what was written stays in ``active``, which the caller removes.
    """

    def __init__(
        self,
        layer: Layer,
        active: Active,
        lower_links: LowerLinks,
        limits: Limits,
        cancel: Cancellation,
        hidden: Marks | None = None,
        expected: dict[bytes, threading.Event] | None = None,
    ) -> None:
        self.lower = lower_links.known
        """The parents' view, where it was known from the beginning."""
        self._layer = layer
        self._lower_links = lower_links
        self._limits = limits
        self._cancel = cancel
        self._refusal: UnpackError | None = None
        self._root_fd = os.open(active.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._applier = Applier(
            self._root_fd,
            lower_links,
            privileged=os.geteuid() == 0,
            limits=limits,
            layer=layer.digest,
            hidden=hidden,
            cancel=cancel,
            expected=expected,
        )

    def fill(self, source: Readable) -> None:
        """Apply the entries of a layer's compressed bytes.

        The diff ID covers every byte of the uncompressed stream, also those after the end-of-archive marker (image-spec
        config.md, "Layer DiffID"). Raises DiffIDMismatchError, UnpackError, StoreFullError, PullCancelledError. An
        entry refused for a reason that the parents may take away is refused by :meth:`settle`.
        """
        hasher = self._layer.diff_id.hasher()
        chunks = decompressed(source, self._limits, layer=self._layer.digest)
        reader = TarReader(_digested(chunks, hasher, self._cancel), self._limits, self._layer.digest)
        try:
            self._applier.make(reader)
            reader.drain()
        except UnpackError as error:
            if not self._applier.assumes or not _may_be_the_parents_doing(error):
                raise
            self._refusal = error.with_traceback(None)  # or it would keep the frames, and they what was read
        else:
            self._verify(hasher)
        finally:
            self.release_descriptors()  # it may lie for long now, among many

    def release_descriptors(self) -> None:
        """Close what is held open for speed, of the parents' view as well; it is opened again when needed."""
        self._applier.close()
        self._lower_links.release_descriptors()

    def _verify(self, hasher: Hasher) -> None:
        promised = self._layer.diff_id
        actual = Digest.of(promised.algorithm, hasher.hexdigest())
        if actual != promised:
            raise DiffIDMismatchError(
                f"layer {self._layer.digest} unpacks to {actual}, but the image's config promises {promised}",
                expected=promised,
                actual=actual,
            )

    def holds(self, lower: MergedTree) -> bool:
        """Whether it is what it would be if it had been filled knowing ``lower``; else it is to be thrown away."""
        return self._applier.holds(lower)

    def settle(self, lower: MergedTree) -> Applied:
        """Finish it upon ``lower``, for which :meth:`holds` is true. Raises as :meth:`fill`, and WhiteoutOrderError."""
        if self._refusal is not None:
            raise self._refusal
        return self._applier.settle(lower)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._applier.close()
        os.close(self._root_fd)


def _may_be_the_parents_doing(error: UnpackError) -> bool:
    """Not so a limit on the layer itself, which ends the pull at once; how deep a name leads is up to links below."""
    return not isinstance(error, LimitExceededError) or error.limit == "path_depth"


def _digested(
    chunks: Iterator[bytes | memoryview], hasher: Hasher, cancel: Cancellation
) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        cancel.raise_if_cancelled()
        hasher.update(chunk)
        yield chunk
