"""What a call asks for, and whether the store can answer it."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from imgpull.errors import ImageNotFoundError, OfflineError
from imgpull.oci import Digest, Platform
from imgpull.reference import Reference
from imgpull.store.images import Content, Image

if TYPE_CHECKING:
    from imgpull.store import Parts

__all__ = ["Order", "Policy", "as_content", "as_order", "as_reference", "cpus", "find", "is_complete", "offline"]

T = TypeVar("T")
Policy = Literal["always", "missing", "never", "newer"]


@dataclass(frozen=True, slots=True)
class Order:
    """A call's arguments, parsed; the content and snapshotter are its Puller's."""

    reference: Reference
    platform: Platform
    """Normalised."""
    policy: Policy
    unpack: bool
    content: Content
    snapshotter: str

    @property
    def offline(self) -> bool:
        """Whether nothing may be fetched."""
        return self.policy == "never"

    def flight_key(self, digest: Digest) -> Hashable:
        """Pulls with equal keys are one pull: all that changes the result is in it, the reference is not."""
        return digest, self.platform, self.offline, self.unpack, self.content, self.snapshotter

    def pull_key(self, digest: Digest) -> str:
        """The same among processes, as a key: of two pulls with equal keys the second finds the first one's image."""
        options = "offline" if self.offline else "online", "unpack" if self.unpack else "fetch", self.content
        return f"image://{self.reference.name}@{digest}/{self.platform}/{'/'.join(options)}/{self.snapshotter}"


def as_order(
    ref: str | Reference,
    platform: str | Platform | None,
    policy: str,
    unpack: bool,
    content: Content,
    snapshotter: str,
) -> Order:
    """Raises InvalidReferenceError, InvalidPlatformError, and ValueError for a policy that is none."""
    if platform is None:
        platform = Platform.host()
    elif not isinstance(platform, Platform):
        platform = Platform.parse(platform)
    return Order(as_reference(ref), platform.normalised, _as_policy(policy), unpack, content, snapshotter)


def as_reference(ref: str | Reference) -> Reference:
    return ref if isinstance(ref, Reference) else Reference.parse(ref)


def _one_of(known: tuple[T, ...], value: object, what: str) -> T:
    for one in known:
        if value == one:
            return one
    raise ValueError(f"{what} must be one of {', '.join(map(str, known))}, not {value!r}")


def as_content(content: str) -> Content:
    return _one_of(get_args(Content), content, "content")


def cpus() -> int:
    """How many processors this process may use, which in a container is not how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find(store: Parts, order: Order) -> Image | None:
    """The record that answers ``order``, complete or not; of several platforms that run here the best."""
    for platform in order.platform.accepted():
        try:
            return store.images.get(order.reference, platform)
        except ImageNotFoundError:
            continue
    return None


def is_complete(store: Parts, image: Image, order: Order) -> bool:
    """Whether everything that ``order`` promises is in the store."""
    if order.unpack and not (image.unpacked and image.chain_id in store.snapshots):
        return False  # another name's pull may have unpacked it: this record does not keep the snapshot
    if order.content == "full" and image.content != "full":
        return False  # though its blobs may be here: its record keeps none of them
    wanted = image.promised if order.unpack else image.blobs
    return all(digest in store.content for digest in wanted)


def offline(reference: Reference, missing: Digest | None = None) -> OfflineError:
    """The error for what is not here and may not be fetched."""
    what = f"{missing} of {reference}" if missing else str(reference)
    return OfflineError(f"{what} is not in the store, and fetching is not allowed (policy never, or IMGPULL_OFFLINE)")


def _as_policy(policy: str) -> Policy:
    """IMGPULL_OFFLINE is read at each call: a process that lives long may go offline."""
    known: Policy = _one_of(get_args(Policy), policy, "policy")
    return "never" if os.environ.get("IMGPULL_OFFLINE", "0") not in ("", "0") else known
