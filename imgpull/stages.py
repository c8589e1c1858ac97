"""The stages of one pull that are more than a call: reading the documents, choosing the blobs, handing layers over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from imgpull.errors import ContentNotFoundError, LimitExceededError, SizeMismatchError, UnpackError, VerificationError
from imgpull.events import BlobChanged, EventSink
from imgpull.fetch import Boarding, Fetcher, Fetches, is_here
from imgpull.limits import Limits
from imgpull.locking import Cancellation
from imgpull.oci import (
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    chain_ids,
    check_layers,
    parse_document,
)
from imgpull.orders import offline
from imgpull.reference import Reference
from imgpull.store import IngestEnded
from imgpull.store.images import Content, Image, Layer

if TYPE_CHECKING:
    from imgpull.store import Follower, Parts, Waiting
    from imgpull.unpack import Readable

__all__ = ["Documents", "Layers", "drop_layers", "first_needed", "needs_every_layer", "pair_layers", "record"]

_DROPPED_AT_ONCE = 64
"""Each is open meanwhile, and a process may have 1,024 files open."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Reads manifests and config of one image, from the store where they are here, else through the fetcher."""

    store: Parts
    fetcher: Fetcher
    reference: Reference
    limits: Limits
    cancel: Cancellation
    say: EventSink
    offline: bool

    def manifest(self, digest: Digest, raw: bytes | None, platform: Platform) -> Manifest:
        """The image manifest for ``platform`` at or below ``digest``; ``raw``: its bytes, if they came already.

        Raises PlatformNotFoundError, SizeMismatchError where an index says another size of what is below it, and
        LimitExceededError for one that goes deeper than the limits allow.
        """
        if raw is not None:
            parse_document(raw, algorithm=digest.algorithm)
            self.fetcher.keep(raw, digest, self.cancel, self.say)
        entry: Descriptor | None = None
        for _ in range(self.limits.index_depth + 1):
            document = self._document(digest, entry)
            if isinstance(document, Manifest):
                document.require_image()
                return document
            if len(document.manifests) > self.limits.index_nodes:
                raise _too_large(digest, "manifests", self.limits.index_nodes)
            entry = document.select(platform)
            digest = entry.digest
        raise _too_large(digest, "levels of indexes", self.limits.index_depth)

    def config(
        self, manifest: Manifest, platform: Platform, meanwhile: Callable[[], None] | None = None
    ) -> ImageConfig:
        """The image's config, checked: its platform, and a diff ID for each layer. Where it has to be fetched,
        ``meanwhile()`` is called once it was asked for."""
        descriptor = manifest.config
        if descriptor.size_bytes > self.limits.config_bytes:
            raise _too_large(descriptor.digest, "bytes", self.limits.config_bytes)
        if descriptor.data is not None and descriptor.digest not in self.store.content:
            self.fetcher.keep(descriptor.data, descriptor.digest, self.cancel, self.say)
        if not is_here(self.store.content, descriptor.digest, descriptor.size_bytes):
            boarding: Boarding = lambda landed, sink: self.fetcher.blob(self.reference, descriptor, landed, sink)  # noqa: E731
            self._bring(descriptor, boarding, meanwhile)
        config = ImageConfig.parse(self._read(descriptor.digest))
        if not platform.matches(config.platform):
            raise platform.not_found([config.platform])
        check_layers(manifest, config, self.limits)
        return config

    def _document(self, digest: Digest, entry: Descriptor | None) -> Manifest | Index:
        """The document with this digest; ``entry`` is what the index above it says of it."""
        media_type, size_bytes = (entry.media_type, entry.size_bytes) if entry else (None, None)

        def check(raw: bytes, content_type: str | None) -> Manifest | Index:
            if size_bytes is not None and len(raw) != size_bytes:
                raise _wrong_size(digest, size_bytes, len(raw))
            return parse_document(raw, content_type, media_type, algorithm=digest.algorithm)

        if entry and entry.data is not None and digest not in self.store.content:
            check(entry.data, None)
            self.fetcher.keep(entry.data, digest, self.cancel, self.say)
        descriptor = Descriptor(media_type=media_type or "", digest=digest, size_bytes=0)
        fetcher, reference = self.fetcher, self.reference
        if digest not in self.store.content:
            self._bring(
                descriptor, lambda landed, sink: fetcher.manifest(reference, digest, size_bytes, check, landed, sink)
            )
        return check(self._read(digest), None)

    def _bring(self, descriptor: Descriptor, boarding: Boarding, meanwhile: Callable[[], None] | None = None) -> None:
        if self.offline:
            raise offline(self.reference, descriptor.digest)
        with Fetches(self.say) as fetches:
            fetches.board(descriptor, boarding)
            if meanwhile is not None:
                meanwhile()
            fetches.wait(descriptor.digest, self.cancel)

    def _read(self, digest: Digest) -> bytes:
        with self.store.content.open(digest) as blob:
            return blob.read()


class Layers:
    """Hands the unpacker its layers: those that were asked for once they are here, others fetched when missed."""

    def __init__(self, documents: Documents, manifest: Manifest, fetches: Fetches) -> None:
        self.documents = documents
        self.manifest = manifest
        self.fetches = fetches
        self._asked = False

    def ask(self, first_needed: int) -> None:
        """Begins to fetch the layers that are not here, from this height upwards, each digest once, bottom first; of
        the others it is said why not. A second call does nothing. Raises OfflineError, SizeMismatchError."""
        if self._asked:
            return
        self._asked = True
        documents, blobs = self.documents, self.manifest.layers
        needed = {blob.digest for blob in blobs[first_needed:]}
        missing: dict[Digest, Descriptor] = {}
        for blob in dict.fromkeys(blobs):
            if is_here(documents.store.content, blob.digest, blob.size_bytes):
                documents.say(BlobChanged(blob.digest, blob.size_bytes, "exists"))
            elif blob.digest not in needed:
                documents.say(BlobChanged(blob.digest, blob.size_bytes, "skipped"))
            else:
                missing.setdefault(blob.digest, blob)
        self.start(missing.values())

    def ask_for_all(self) -> None:
        """:meth:`ask` for every layer, before the config was seen: it may turn out to be refused."""
        if len(self.manifest.layers) <= self.documents.limits.layers:
            self.ask(0)

    def start(self, blobs: Iterable[Descriptor]) -> None:
        """Begins to fetch ``blobs``. Raises OfflineError."""
        for blob in blobs:
            if self.documents.offline:
                raise offline(self.documents.reference, blob.digest)
            self.fetches.board(blob, self._boarding(blob))

    @contextmanager
    def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Iterator[Readable]:
        """The bytes of a layer's blob, from the store or while it arrives: see LayerSource."""
        content, follower = self.documents.store.content, None
        if digest not in content:
            # Asked for already, as a rule. Not so a layer of "lazy" whose snapshot was removed since we looked.
            self.start([layer for layer in self.manifest.layers if layer.digest == digest])
            follow = partial(self.documents.fetcher.follow, digest, cancel, waiting)
            with waiting():
                follower = self.fetches.first(digest, follow, cancel)
        if follower is None:
            with self._opened(digest) as blob:
                yield blob
        else:
            with follower, self._judged(follower, digest, cancel):
                yield follower

    def _opened(self, digest: Digest) -> AbstractContextManager[Readable]:
        try:
            return self.documents.store.content.open(digest)
        except ContentNotFoundError as error:  # another pull has dropped it since we looked
            raise IngestEnded(f"{digest} went before it was opened") from error

    @contextmanager
    def _judged(self, follower: Follower, digest: Digest, cancel: Cancellation) -> Iterator[None]:
        """What was made of bytes while they arrived counts once they are the blob: wrong bytes are the fetch's error,
        whatever they looked like to who unpacked them."""
        held: Exception | None = None
        try:
            yield
        except LimitExceededError:  # not worth waiting for: the pull ends, and its transfers with it
            raise
        except (UnpackError, VerificationError, IngestEnded) as error:
            held = error
        if not follower.committed:
            self.fetches.wait(digest, cancel)
        if not follower.committed:
            raise IngestEnded(f"{digest} arrived again") from held
        if held is not None:
            raise held

    def _boarding(self, blob: Descriptor) -> Boarding:
        documents = self.documents
        return lambda landed, sink: documents.fetcher.blob(documents.reference, blob, landed, sink)


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    """This manifest's layers with the config's diff IDs and the chain IDs that follow from them."""
    chains = chain_ids(config.diff_ids)
    return tuple(
        Layer(blob.digest, blob.media_type, blob.size_bytes, diff_id, chain_id)
        for blob, diff_id, chain_id in zip(manifest.layers, config.diff_ids, chains, strict=True)
    )


def needs_every_layer(content: Content, unpack: bool) -> bool:
    """Whether no layer's blob is spared by what is unpacked already."""
    return content == "full" or not unpack


def first_needed(content: Content, store: Parts, layers: Sequence[Layer], unpack: bool) -> int:
    """The height from which on the layers' blobs are needed."""
    return 0 if needs_every_layer(content, unpack) else _first_without_snapshot(store, layers)


def _first_without_snapshot(store: Parts, layers: Sequence[Layer]) -> int:
    """A snapshot keeps its parents, so the topmost one that is here answers for all below it."""
    for height in range(len(layers), 0, -1):
        if layers[height - 1].chain_id in store.snapshots:
            return height
    return 0


def record(image: Image, store: Parts, source: Layers, cancel: Cancellation) -> None:
    """Writes the image's record, which says only what is true: what was removed since it was seen is fetched again."""
    while True:
        try:
            store.images.put(image)
        except ContentNotFoundError:
            missing = {digest for digest in image.promised if digest not in store.content}
            if not missing <= {layer.digest for layer in image.layers}:
                raise
            source.start([blob for blob in source.manifest.layers if blob.digest in missing])
            source.fetches.wait_all(cancel)
        else:
            return


def drop_layers(image: Image, store: Parts) -> None:
    """Removes the blobs of an image's layers that its record does not keep, where no other record does."""
    doomed = sorted(image.blobs - image.kept)
    for first in range(0, len(doomed), _DROPPED_AT_ONCE):
        store.content.drop(*doomed[first : first + _DROPPED_AT_ONCE])


def _too_large(digest: Digest, what: str, limit: int) -> LimitExceededError:
    return LimitExceededError(f"{digest} has more than {limit} {what}", limit=what)


def _wrong_size(digest: Digest, expected: int, actual: int) -> SizeMismatchError:
    return SizeMismatchError(
        f"{digest} has {actual} bytes, and the index above it says {expected}; tell whoever published it",
        expected=expected,
        actual=actual,
    )
