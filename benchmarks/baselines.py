"""The arms: the same pull, with and without duplicate suppression. Every arm's result is right; some are slow.

``suppression``
    What imgpull does: one flight per image, one transfer per blob, one application per chain.
``backoff``
    No suppression. A writer whose ref is taken is refused at once, and the client sleeps and tries again: containerd's
    ``OpenWriter`` (at random below 16 ms, doubled each time up to 2 048). Every pull unpacks for itself, and the
    snapshot of whoever commits first is kept.
``convoy``
    The same, on the content store containerd had until its PR #8792: the refused writer does not go away at once but
    tries ten times, sleeping in between, *inside* the metadata store's only write transaction. Whoever holds the ref
    needs that transaction to commit, so everybody waits for somebody who waits for them. A model of the back-off alone
    shows a few seconds where containerd took a minute.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from imgpull.errors import RefLockedError
from imgpull.locking import NoSuppression
from imgpull.puller import Puller
from imgpull.store import Store
from imgpull.store.content import ContentStore

if TYPE_CHECKING:
    from benchmarks.record import Counters
    from imgpull.oci import Digest
    from imgpull.store.content import Info, Writer
    from imgpull.store.core import Core
    from imgpull.store.database import Connection
    from imgpull.store.durability import Durability
    from imgpull.store.layout import Layout

__all__ = ["ARMS", "Arm", "ConvoyContent", "ConvoyStore", "arm_called"]

_TRIES = 10
"""``for count := 0; count < 10; count++`` in containerd's content/local/store.go, with a sleep after each, the last
one too."""


class ConvoyContent(ContentStore):
    """containerd's content store before the change, as far as its locks go."""

    _sleep: Callable[[float], None] = staticmethod(time.sleep)
    tries = 0
    """Times a ref was found locked. Written by the database's one writer thread alone, as is the next."""
    slept_seconds = 0.0
    """Asleep while holding the only write transaction."""

    def writer(self, ref: str, *, expected: str | None = None, total_bytes: int | None = None) -> Writer:
        """Opens the writer inside a write transaction, and tries ten times there before it says RefLockedError."""

        def in_transaction(_: Connection) -> Writer:
            for attempt in range(_TRIES):
                try:
                    return super(ConvoyContent, self).writer(ref, expected=expected, total_bytes=total_bytes)
                except RefLockedError as error:
                    refused = error
                self.tries += 1
                pause_seconds = random.randrange(1 << attempt) / 1000
                self.slept_seconds += pause_seconds
                self._sleep(pause_seconds)
            raise refused

        return self.database.write(in_transaction)

    def commit_writer(
        self, writer: Writer, size_bytes: int | None, expected: Digest | None, labels: Mapping[str, str] | None
    ) -> Info:
        """Commits inside the transaction too, syncing the file there (containerd until its PR #10128)."""

        def in_transaction(_: Connection) -> Info:
            return super(ConvoyContent, self).commit_writer(writer, size_bytes, expected, labels)

        return self.database.write(in_transaction)


class ConvoyStore(Store):
    """A store whose content store is :class:`ConvoyContent`; on disk it is like any other."""

    def _make_content(self, core: Core, layout: Layout, kind: type[ContentStore] = ContentStore) -> ContentStore:
        return super()._make_content(core, layout, ConvoyContent)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to pull."""

    name: str
    open_store: Callable[[str, str], Store]
    make_puller: Callable[[Store], Puller]
    description: str

    def tries(self, store: Store, counters: Counters) -> dict[str, Any]:
        """Times a writer was refused, and the sleep inside the transaction, as the record's fields."""
        if isinstance(store.content, ConvoyContent):
            slept = round(store.content.slept_seconds, 6)
            return {"tries": store.content.tries, "slept_in_transaction_seconds": slept}
        return {"tries": counters.refused, "slept_in_transaction_seconds": 0.0}


def _plain_store(root: str, durability: str) -> Store:
    return Store(root, durability=cast("Durability", durability))


def _convoy_store(root: str, durability: str) -> Store:
    return ConvoyStore(root, durability=cast("Durability", durability))


def _suppressed(store: Store) -> Puller:
    return Puller(store)


def _unsuppressed(store: Store) -> Puller:
    return Puller(store, keyed_lock=NoSuppression())


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("suppression", _plain_store, _suppressed, "one pull works, the others wait for it"),
        Arm("backoff", _plain_store, _unsuppressed, "each pull for itself; refused writers sleep and try again"),
        Arm("convoy", _convoy_store, _unsuppressed, "each for itself; refused writers sleep inside the transaction"),
    )
}


def arm_called(name: str) -> Arm:
    """Raises KeyError, naming the choice."""
    if name not in ARMS:
        raise KeyError(f"no arm is called {name!r}; there are {', '.join(ARMS)}")
    return ARMS[name]
