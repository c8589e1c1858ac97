"""The conductor: what a pull is, stage by stage. Read :meth:`Puller._fly` first, then :meth:`Puller._begin`.

A call is parsed, resolved (one HEAD serves all that wait for it) and boards the flight of its image. The flight runs on
the image's own thread and belongs to nobody; callers wait on futures and hold no key.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from imgpull.calls import Call
from imgpull.errors import PullCancelledError, PullTimeoutError, RegistryError
from imgpull.events import BlobChanged, BlobState, EventSink, Resolved, discard
from imgpull.joining import resolve_once, turn
from imgpull.limits import Limits
from imgpull.locking import Cancellation, Flight, Flights, KeyedLock, Landed, Slots, tell
from imgpull.oci import EMPTY_CHAIN_ID, Platform
from imgpull.orders import Order, Policy, as_content, as_order, as_reference, cpus, find, is_complete, offline
from imgpull.reference import Reference
from imgpull.registry import Resolution, connect
from imgpull.store.answers import Answers
from imgpull.store.images import Content, Image
from imgpull.traffic import Traffic

if TYPE_CHECKING:
    from imgpull.fetch import Fetcher
    from imgpull.registry import Credentials, Hosts
    from imgpull.store import Store
    from imgpull.unpack import Unpacker

__all__ = ["Puller"]

T = TypeVar("T")

_FETCHES = 6
"""Forty small layers gain up to six side by side, large ones nothing past three (docs/decisions/threads.md)."""
_log = logging.getLogger("imgpull.puller")


class Puller:
    """Pulls images into a store. Thread-safe; make one and share it, or several on one store: they share their work.

    ``keyed_lock``: None is the one keyed lock this process has for this store, which other processes heed;
    ``NoSuppression()`` turns it and the joining of pulls off. ``max_concurrent_fetches`` and
    ``max_concurrent_unpacks`` bound this Puller's work.
    ``content``: ``"full"`` keeps every blob of an image, ``"lazy"`` does not fetch a layer whose chain is unpacked,
    ``"drop"`` removes a layer's blob, too, once its chain is unpacked and no other image keeps it. From an image that
    is recorded as ``"full"`` and complete it removes nothing.
    ``plain_http``: registries (``host[:port]``) spoken to without TLS, beside those on loopback.

    Closing it (or leaving its ``with`` block) waits for its calls, not for work that goes on for another Puller's;
    leaving by an exception cancels them first. It belongs to the process that made it, not to one forked from it.
    """

    def __init__(
        self,
        store: Store,
        *,
        keyed_lock: KeyedLock | None = None,
        snapshotter: str = "overlay",
        max_concurrent_fetches: int = _FETCHES,
        max_concurrent_unpacks: int | None = None,
        content: Content = "full",
        plain_http: Iterable[str] = (),
        hosts: Hosts | None = None,
        credentials: Credentials | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._process = os.getpid()
        self._handle = store
        self._store = store.parts  # not the handle, which may be closed while others are on board of our flights
        self._content = as_content(content)
        self._snapshotter = snapshotter
        self._limits = limits or Limits()
        self._keys = keyed_lock if keyed_lock is not None else store.keyed_lock
        self._shares = keyed_lock is None
        own = Traffic(joining=self._keys.exclusive)
        self._traffic = store.process_wide(Traffic, "traffic") if self._shares else own
        self._max_concurrent_fetches = max_concurrent_fetches
        self._registry = connect(tuple(plain_http), hosts, credentials, self._limits)
        self._answers = Answers(self._store.core.root) if self._shares else None
        self._unpack_slots = Slots(cpus() if max_concurrent_unpacks is None else max_concurrent_unpacks)
        self._fetcher: Fetcher | None = None
        self._unpacker: Unpacker | None = None
        # Guards the two above, and _closed, and that nothing is added to _calls once that is set.
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._closed = False

    # -- what a user calls ---------------------------------------------------------------------------------------

    def pull(
        self,
        ref: str | Reference,
        *,
        platform: str | Platform | None = None,
        policy: Policy = "always",
        unpack: bool = True,
        timeout_seconds: float | None = None,
        cancel: Cancellation | None = None,
        progress: EventSink | None = None,
    ) -> Image:
        """Pulls ``ref`` and returns its image; waits for the work, which may be another caller's.

        ``policy``: ``always`` asks the registry whether the tag moved (one HEAD; nothing for a digest that is here),
        ``missing`` only when it is not here, ``never`` not at all, ``newer`` as always, but content with what is here
        when the registry can't be asked. ``timeout_seconds`` bounds this call: PullTimeoutError, while the work goes
        on for others. ``cancel``: PullCancelledError. ``progress`` is called with each :class:`imgpull.Event`.
        """
        with self._call(ref, platform, policy, unpack, cancel, progress) as call:
            try:
                return call.future.result(None if timeout_seconds is None else at_most(timeout_seconds))
            except TimeoutError:
                if not call.leave():
                    return call.future.result()
                raise timed_out(ref, timeout_seconds or 0) from None

    def submit(
        self,
        ref: str | Reference,
        *,
        platform: str | Platform | None = None,
        policy: Policy = "always",
        unpack: bool = True,
        timeout_seconds: float | None = None,
        cancel: Cancellation | None = None,
        progress: EventSink | None = None,
    ) -> Future[Image]:
        """:meth:`pull` without waiting: a future, whose ``cancel()`` leaves the pull. Raises only for bad arguments."""
        with self._call(ref, platform, policy, unpack, cancel, progress) as call:
            if timeout_seconds is not None:
                late = timed_out(ref, timeout_seconds)
                call.fail_after(at_most(timeout_seconds), late, self._traffic.deadlines)
            return call.future

    def resolve(self, ref: str | Reference, *, cancel: Cancellation | None = None) -> Resolution:
        """Asks the registry what ``ref`` stands for; nothing is stored."""
        self._refuse_child()
        return self._registry.resolve(as_reference(ref), cancel)

    def close(self) -> None:
        """Waits for the calls of this Puller to end. A second call does nothing, nor does one in a forked child."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
        for call in tuple(self._calls):
            call.wait()
        if not self._shares:
            self._traffic.close()
        self._registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and os.getpid() == self._process:
            for call in tuple(self._calls):
                call.fail(PullCancelledError("cancelled: its Puller was left by an error"))
        self.close()

    # -- from a call to a flight ---------------------------------------------------------------------------------

    @contextmanager
    def _call(
        self,
        ref: str | Reference,
        platform: str | Platform | None,
        policy: Policy,
        unpack: bool,
        cancel: Cancellation | None,
        progress: EventSink | None,
    ) -> Iterator[Call]:
        """A call that has begun. An error of the block, Ctrl-C included, gives it up, where it has not ended."""
        call, order = Call(progress), as_order(ref, platform, policy, unpack, self._content, self._snapshotter)
        try:
            self._begin(call, order, cancel)
            yield call
        except BaseException:
            call.leave()
            raise

    def _begin(self, call: Call, order: Order, cancel: Cancellation | None) -> None:
        self._refuse_child()
        self._handle.parts  # noqa: B018 -- raises StoreError for a store that was closed
        with self._lock:
            if self._closed:
                raise RuntimeError("this Puller is closed")
            self._calls.add(call)
        call.future.add_done_callback(lambda _: self._calls.discard(call))
        if cancel is not None:
            call.listen(cancel)
        with call.failing():
            self._start(call, order)

    def _refuse_child(self) -> None:
        """In a forked child: its threads stayed in the parent, and its locks are as they were there."""
        if os.getpid() != self._process:
            raise RuntimeError("this Puller was made before the process forked: make another one in the child")

    def _start(self, call: Call, order: Order) -> None:
        """Answers from the store where the policy lets us, else boards a resolution or, with a digest, the pull."""
        if order.reference.digest is None and order.policy in ("always", "newer"):
            self._board_resolution(call, order)  # what is here is looked at when its digest is known
            return
        here = find(self._store, order)
        known = order.reference.digest or (here.digest if here else None)
        if known:
            self._answer(call, order, Resolution(known), here)
        elif order.offline:
            raise offline(order.reference)
        else:
            self._board_resolution(call, order)

    def _answer(self, call: Call, order: Order, resolution: Resolution, here: Image | None) -> None:
        """With the image that is here, where it is what was resolved and nothing of it is missing; else pull."""
        if image := self._complete(here, order, resolution):
            self._finish_here(call, image)
        else:
            self._board_pull(call, order, resolution)

    def _complete(self, here: Image | None, order: Order, resolution: Resolution) -> Image | None:
        complete = here and here.digest == resolution.digest and is_complete(self._store, here, order)
        return here if complete else None

    def _finish_here(self, call: Call, here: Image) -> None:
        for layer in here.layers:
            state: BlobState = "exists" if layer.digest in self._store.content else "skipped"
            tell(call.say, BlobChanged(layer.digest, layer.size_bytes, state))
        call.finish(here)

    def _board_resolution(self, call: Call, order: Order) -> None:
        def work(flight: Flight[Resolution]) -> Resolution:
            if self._answers is not None:
                resolution = resolve_once(self._registry, order.reference, flight, self._keys, self._answers)
            else:
                flight.depart()  # who comes from here on may be told only of what the registry says later
                resolution = self._registry.resolve(order.reference, flight.cancel)
            flight.audience(Resolved(str(order.reference), resolution.digest))
            return resolution

        def landed(resolution: Resolution | None, error: BaseException | None) -> None:
            with call.failing():
                if resolution is not None:
                    self._resolved(call, order, resolution)
                elif error is not None:
                    self._unresolved(call, order, error)

        key = (self._registry, order.reference)
        self._board(call, self._traffic.resolutions, key, work, landed, f"imgpull-resolve {order.reference.familiar}")

    def _unresolved(self, call: Call, order: Order, error: BaseException) -> None:
        """The end of the call, unless its policy makes do with what is here."""
        may_fall_back = order.policy == "newer" and isinstance(error, RegistryError)
        here = find(self._store, order) if may_fall_back else None
        if here and is_complete(self._store, here, order):
            _log.info("the registry could not be asked, using what is here: %s", error)
            self._finish_here(call, here)
        else:
            call.fail(error)

    def _resolved(self, call: Call, order: Order, resolution: Resolution) -> None:
        if self._flight_key(order, resolution) in self._traffic.pulls:
            self._board_pull(call, order, resolution)  # without a look into the store: there it would have ended
        else:
            self._answer(call, order, resolution, find(self._store, order))

    def _flight_key(self, order: Order, resolution: Resolution) -> Hashable:
        return self._registry, order.reference.name, order.flight_key(resolution.digest)

    def _board_pull(self, call: Call, order: Order, resolution: Resolution) -> None:
        led = False

        def work(flight: Flight[Image]) -> Image:
            nonlocal led
            with turn(self._keys, order.pull_key(resolution.digest), flight.cancel, flight.audience):
                # Another process may have pulled it since we looked.
                here = find(self._store, order) if self._traffic.joining else None
                if image := self._complete(here, order, resolution):
                    return image
                led = True
                return self._fly(flight, order, resolution)

        def landed(image: Image | None, error: BaseException | None) -> None:
            with call.failing():
                if image is not None:
                    if not led and call.say is not discard:  # what was told of them was another call's doing
                        for layer in image.layers:
                            tell(call.say, BlobChanged(layer.digest, layer.size_bytes, "joined"))
                    call.finish(self._named(image, order.reference))
                elif error is not None:
                    call.fail(error)

        key = self._flight_key(order, resolution)
        self._board(call, self._traffic.pulls, key, work, landed, f"imgpull-unpack {order.reference.familiar}")

    def _board(
        self,
        call: Call,
        flights: Flights[T],
        key: Hashable,
        work: Callable[[Flight[T]], T],
        landed: Landed[T],
        name: str,
    ) -> None:
        def launch(run: Callable[[], None]) -> None:
            self._traffic.threads.start(run, name)

        call.sit(lambda: flights.board(key, work, launch, landed, call.say))

    # -- the pull ------------------------------------------------------------------------------------------------

    def _fly(self, flight: Flight[Image], order: Order, resolution: Resolution) -> Image:
        """One pull, from a digest to an image record; runs on the image's own thread, which holds the image's key."""
        # Here and not above: a process that only waited for others has come to its end without these rooms.
        from imgpull.fetch import Fetches
        from imgpull.stages import Documents, Layers, drop_layers, first_needed, needs_every_layer, pair_layers, record

        cancel, say, store = flight.cancel, flight.audience, self._store
        with store.core.database.gathering(), Fetches(say) as fetches:
            documents = Documents(store, self._fetching(), order.reference, self._limits, cancel, say, order.offline)
            manifest = documents.manifest(resolution.digest, resolution.raw, order.platform)
            source = Layers(documents, manifest, fetches)
            all_at_once = source.ask_for_all if needs_every_layer(self._content, order.unpack) else None
            config = documents.config(manifest, order.platform, all_at_once)
            layers = pair_layers(manifest, config)
            source.ask(first_needed(self._content, store, layers, order.unpack))
            chain_id = layers[-1].chain_id if layers else EMPTY_CHAIN_ID
            if order.unpack:
                self._unpacking().unpack(layers, manifest.layers, source, cancel, say)
            fetches.wait_all(cancel)
            image = Image(
                reference=str(order.reference),
                digest=resolution.digest,
                manifest_digest=manifest.digest,
                platform=config.platform.normalised,
                config=config,
                layers=layers,
                chain_id=chain_id,
                size_bytes=manifest.size_bytes,
                content=self._content,
                snapshotter=self._snapshotter,
                unpacked=order.unpack,
            )
            record(image, store, source, cancel)
            drop_layers(image, store)
            return image

    def _fetching(self) -> Fetcher:
        """What this Puller fetches with, made with its first pull that has to; without suppression one for this pull
        alone, as containerd had a limiter per pull."""
        from imgpull.fetch import Fetcher

        with self._lock:
            if self._fetcher is None or not self._traffic.joining:
                self._fetcher = Fetcher(
                    self._store.content,
                    self._registry,
                    self._keys,
                    self._traffic.blobs,
                    self._traffic.threads,
                    self._max_concurrent_fetches,
                )
            return self._fetcher

    def _unpacking(self) -> Unpacker:
        """What this Puller unpacks with. Its room is imported while the first blobs arrive."""
        from imgpull.unpack import Unpacker

        with self._lock:
            if self._unpacker is None:
                slots = self._unpack_slots
                self._unpacker = Unpacker(self._store, self._keys, slots, self._snapshotter, self._limits)
            return self._unpacker

    def _named(self, image: Image, reference: Reference) -> Image:
        """The image under the caller's own reference; one of another name joined the same flight by its digest."""
        if image.reference == str(reference):
            return image
        named = replace(image, reference=str(reference))
        self._store.images.put(named)
        return named


def timed_out(ref: str | Reference, timeout_seconds: float) -> PullTimeoutError:
    return PullTimeoutError(f"{ref} was not pulled within {timeout_seconds:g} s: pull again to go on")


def at_most(timeout_seconds: float) -> float:
    """What a wait can take: more is an OverflowError there."""
    return min(timeout_seconds, threading.TIMEOUT_MAX)
