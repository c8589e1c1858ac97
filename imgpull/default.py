"""``imgpull.pull``: the one-call form, on the default store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from imgpull.puller import Puller
from imgpull.store import Store, default_root

if TYPE_CHECKING:
    from imgpull.events import EventSink
    from imgpull.locking import Cancellation
    from imgpull.oci import Platform
    from imgpull.orders import Policy
    from imgpull.reference import Reference
    from imgpull.store.images import Image

__all__ = ["pull"]


class _Borrowed:
    """One Puller for all calls that overlap, opened by the first and closed by the last, so that nothing stays open
    behind the back of a program that pulled once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _open and _users; held while opening, so that nobody opens a second
        self._users: dict[str, int] = {}
        self._open: dict[str, tuple[Puller, Callable[[], None]]] = {}

    def borrow(self, root: str) -> Puller:
        with self._lock:
            if root not in self._open:
                with ExitStack() as opening:
                    puller = opening.enter_context(Puller(opening.enter_context(Store(root))))
                    self._open[root] = puller, opening.pop_all().close
            self._users[root] = self._users.get(root, 0) + 1
            return self._open[root][0]

    def give_back(self, root: str) -> None:
        with self._lock:
            self._users[root] -= 1
            if self._users[root]:
                return
            del self._users[root]
            _, close = self._open.pop(root)
        close()


_borrowed = _Borrowed()


def _after_fork_in_child() -> None:
    global _borrowed  # noqa: PLW0603
    _borrowed = _Borrowed()  # the parent's threads and connections are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def pull(
    ref: str | Reference,
    *,
    platform: str | Platform | None = None,
    policy: Policy = "always",
    unpack: bool = True,
    timeout_seconds: float | None = None,
    cancel: Cancellation | None = None,
    progress: EventSink | None = None,
) -> Image:
    """Pulls ``ref`` into the default store (``$IMGPULL_HOME``, ``$XDG_DATA_HOME/imgpull``, ``~/.local/share/imgpull``)
    and returns its image. Arguments and errors as :meth:`imgpull.Puller.pull`; calls at once share their work."""
    borrowed, root = _borrowed, str(default_root())
    puller = borrowed.borrow(root)
    try:
        return puller.pull(
            ref,
            platform=platform,
            policy=policy,
            unpack=unpack,
            timeout_seconds=timeout_seconds,
            cancel=cancel,
            progress=progress,
        )
    finally:
        borrowed.give_back(root)
