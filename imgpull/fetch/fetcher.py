"""The fetcher: brings blobs from a registry into the content store, one transfer per digest.

A transfer is a flight by repository, digest and declared size: pulls that ask for the same board it. Its worker takes
the key ``blob://<digest>``, looks again, opens the ref's writer, and only then a slot, so that whoever waits costs no
slot (containerd took the slot first, and a leaked one hung every pull: #11864). A body that ends early is resumed where
it ended, and so is a partial that an earlier attempt left, after its prefix was digested again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from imgpull.errors import (
    AlreadyExistsError,
    ContentNotFoundError,
    DigestMismatchError,
    LockTimeoutError,
    RefLockedError,
    RegistryError,
    SizeMismatchError,
)
from imgpull.events import BlobAdvanced, BlobChanged, BlobRequested, BlobState, EventSink, Woken
from imgpull.fetch.backoff import open_writer
from imgpull.fetch.workers import Workers
from imgpull.locking import Cancellation, Flight, Flights, KeyedLock, Landed, Seat, Slots, Threads
from imgpull.oci import Descriptor, Digest
from imgpull.reference import Reference

if TYPE_CHECKING:
    from imgpull.registry import Registry
    from imgpull.store.content import ContentStore, Follower, Waiting, Writer

__all__ = ["Arrive", "Fetcher", "is_here"]

_BLOCK = 256 * 1024  # larger gained nothing and costs memory per worker (docs/decisions/threads.md)
_STALLED_ATTEMPTS = 5
_PROGRESS_BYTES = 1024 * 1024  # an attempt that brought this much does not count as stalled (c/image bodyReader)
_log = logging.getLogger("imgpull.fetch")

Arrive = Callable[[Cancellation, EventSink], None]
"""Brings one blob into the store; runs on a worker that holds the blob's key, when the blob is not here."""


class Fetcher:
    """Workers that fetch, on threads that outlive it: a transfer may have become another pull's."""

    def __init__(
        self,
        content: ContentStore,
        registry: Registry,
        keys: KeyedLock,
        flights: Flights[None],
        threads: Threads,
        max_concurrent_fetches: int,
    ) -> None:
        """``flights``: where transfers are joined, or not; where not, workers wait for a ref inside their slots, as
        they did before containerd's change."""
        self._content = content
        self._registry = registry
        self._keys = keys
        self._flights = flights
        self._threads = threads
        self._slots = Slots(max_concurrent_fetches)
        # A worker that has to wait for a key or a ref stands aside, so more of them would only queue for slots.
        self._workers = Workers(threads, max_concurrent_fetches, "imgpull-fetch")

    def blob(self, reference: Reference, descriptor: Descriptor, landed: Landed[None], sink: EventSink) -> Seat[None]:
        """Starts, or joins, the transfer of one blob."""

        def arrive(cancel: Cancellation, say: EventSink) -> None:
            self._transfer(reference, descriptor, cancel, say)

        size = descriptor.size_bytes
        return self._board(reference, descriptor, size, arrive, self._workers.submit, landed, sink)

    def manifest(
        self,
        reference: Reference,
        digest: Digest,
        size_bytes: int | None,
        check: Callable[[bytes, str | None], object],
        landed: Landed[None],
        sink: EventSink,
    ) -> Seat[None]:
        """Starts, or joins, the fetch of a manifest or index. ``check`` gets its bytes, whose digest holds, and the
        content type, and raises to keep it out of the store. ``size_bytes``: what an index says of it, if any did."""

        def arrive(cancel: Cancellation, say: EventSink) -> None:
            def asked(address: str, offset_bytes: int) -> None:
                say(BlobRequested(digest, address, offset_bytes))

            raw, content_type = self._registry.get_manifest(reference, digest, cancel, asked)
            check(raw, content_type)
            self.keep(raw, digest, cancel, say)

        document = Descriptor(media_type="", digest=digest, size_bytes=0)  # in events a document has no size
        return self._board(reference, document, size_bytes, arrive, self._beside, landed, sink)

    def follow(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Follower | None:
        """A reader of the blob while it arrives, from its first byte; None where it does not, here and now, and where
        transfers are not joined: then each pull has its own, as before containerd's change."""
        return self._content.follow(_ref(digest), cancel, waiting=waiting) if self._flights.joining else None

    def keep(self, raw: bytes, digest: Digest, cancel: Cancellation, say: EventSink) -> None:
        """Stores bytes that are here already under their digest."""
        try:
            with self._open(f"manifest-{digest}", digest, len(raw), cancel, say) as writer:
                if writer.offset_bytes:
                    writer.restart()
                writer.write(raw)
                writer.commit(len(raw), digest)
        except AlreadyExistsError:
            _log.debug("manifest %s was stored by somebody else", digest)

    def _board(
        self,
        reference: Reference,
        descriptor: Descriptor,
        declared_bytes: int | None,
        arrive: Arrive,
        launch: Callable[[Callable[[], None]], None],
        landed: Landed[None],
        sink: EventSink,
    ) -> Seat[None]:
        def work(flight: Flight[None]) -> None:
            self._once(descriptor, declared_bytes, arrive, flight.cancel, flight.audience)

        key = (reference.name, descriptor.digest, declared_bytes)  # whoever names it wrongly fails alone
        return self._flights.board(key, work, launch, landed, sink)

    def _beside(self, run: Callable[[], None]) -> None:
        """On a thread that is no worker: a document is short, and must not wait behind the layers of other images."""
        self._threads.start(run, "imgpull-fetch")

    def _once(
        self, descriptor: Descriptor, declared_bytes: int | None, arrive: Arrive, cancel: Cancellation, say: EventSink
    ) -> None:
        def told(state: BlobState) -> None:
            say(BlobChanged(descriptor.digest, descriptor.size_bytes, state))

        told("waiting")
        key = _key(descriptor.digest)
        with ExitStack() as stack:
            try:
                held = stack.enter_context(self._keys.hold(key, 0, cancel))
            except LockTimeoutError:
                self._workers.stand_aside()
                held = stack.enter_context(self._keys.hold(key, cancel=cancel))
            if held.waited:
                say(Woken(key, found_held=False, slept_seconds=0.0))
            if is_here(self._content, descriptor.digest, declared_bytes):
                told("exists")
                return
            arrive(cancel, say)
        told("fetched")

    def _open(self, ref: str, digest: Digest, total_bytes: int, cancel: Cancellation, say: EventSink) -> Writer:
        def open_once() -> Writer:
            try:
                return self._content.writer(ref, expected=digest, total_bytes=total_bytes)
            except RefLockedError:
                if self._flights.joining:
                    self._workers.stand_aside()
                raise

        return open_writer(open_once, ref, cancel, say)

    def _transfer(self, reference: Reference, blob: Descriptor, cancel: Cancellation, say: EventSink) -> None:
        """Fetches until the digest holds. Wrong bytes are dropped and asked for once more, from zero."""
        avoid: set[str] = set()
        told = _Told(blob.digest, say)
        for last_try in (False, True):
            try:
                with self._open(_ref(blob.digest), blob.digest, blob.size_bytes, cancel, say) as writer:
                    if writer.offset_bytes > blob.size_bytes:  # a partial that is no beginning of this blob
                        writer.restart()
                    with self._slots.take(cancel):
                        self._fill(writer, reference, blob, avoid, cancel, told)
                    writer.commit(blob.size_bytes, blob.digest)
                return
            except AlreadyExistsError:
                return
            except DigestMismatchError:
                if last_try:
                    raise
                _log.info("%s sent wrong bytes for %s: once more from zero", reference.domain, blob.digest)
                told.take_back()

    def _fill(
        self,
        writer: Writer,
        reference: Reference,
        blob: Descriptor,
        avoid: set[str],
        cancel: Cancellation,
        told: _Told,
    ) -> None:
        """Until the partial is as long as the descriptor says; every attempt goes on where the last one ended.

        ``avoid``: hosts not to ask while there are others; the one that answered is added, for the next try.
        """
        told.say(BlobChanged(blob.digest, blob.size_bytes, "fetching"))
        retry, stalled, liars = self._registry.retry, 0, frozenset(avoid)
        while writer.offset_bytes < blob.size_bytes:
            before = writer.offset_bytes
            try:
                avoid.add(self._receive(writer, reference, blob, liars, cancel, told))
            except RegistryError as error:
                stalled = 0 if writer.offset_bytes - before >= _PROGRESS_BYTES else stalled + 1
                if stalled >= _STALLED_ATTEMPTS or not retry.worth_retrying(error):
                    raise
                retry.pause(max(stalled, 1), error, cancel)

    def _receive(
        self,
        writer: Writer,
        reference: Reference,
        blob: Descriptor,
        avoid: frozenset[str],
        cancel: Cancellation,
        told: _Told,
    ) -> str:
        """One GET, from where the partial ends; returns who answered it. The response ends in an error unless the
        blob is complete, neither shorter nor longer than its descriptor says."""

        def asked(address: str, offset_bytes: int) -> None:
            told.say(BlobRequested(blob.digest, address, offset_bytes))

        with self._registry.open_blob(reference, blob, writer.offset_bytes, cancel, asked, avoid) as body:
            if body.offset_bytes != writer.offset_bytes:  # the Range was ignored; a partial and a whole never mix
                told.take_back()
                writer.restart()
                told.say(BlobChanged(blob.digest, blob.size_bytes, "fetching"))
            block = memoryview(bytearray(_BLOCK))
            while count := body.readinto(block):
                writer.write(block[:count])
                told.advance(count)
            return body.host.address


def is_here(content: ContentStore, digest: Digest, size_bytes: int | None) -> bool:
    """Whether a blob is here. Raises SizeMismatchError where it is, and its descriptor says another size: an image
    that its fetch would refuse is no better for what the store happens to have."""
    try:
        actual = content.blobs.stat(digest).st_size
    except ContentNotFoundError:
        return False
    if size_bytes not in (None, actual):
        raise SizeMismatchError(
            f"{digest} has {actual} bytes, and its descriptor says {size_bytes}; tell whoever published it",
            expected=size_bytes,
            actual=actual,
        )
    return digest in content


def _key(digest: Digest) -> str:
    return f"blob://{digest}"


def _ref(digest: Digest) -> str:
    """containerd's name for the ingest of a layer or config (``remotes.MakeRefKey``)."""
    return f"layer-{digest}"


class _Told:
    """What was said to have arrived, by this transfer and over the network: what it takes back when it starts again."""

    def __init__(self, digest: Digest, say: EventSink) -> None:
        self.say = say
        self._digest = digest
        self._bytes = 0

    def advance(self, count: int) -> None:
        self._bytes += count
        self.say(BlobAdvanced(self._digest, count))

    def take_back(self) -> None:
        if self._bytes:
            self.say(BlobAdvanced(self._digest, -self._bytes))
            self._bytes = 0
