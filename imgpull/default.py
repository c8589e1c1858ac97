"""``imgpull.pull``: the one-call form, on the default store."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from imgpull.errors import ImgpullError, PullCancelledError, PullTimeoutError
from imgpull.locking import Threads
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

_log = logging.getLogger("imgpull.puller")


class _Shared:
    """One Puller on the store at ``root`` for all calls that overlap."""

    def __init__(self, root: str) -> None:
        self.users = 0
        self._root = root
        self._lock = threading.Lock()  # guards _puller; held while opening, so that nobody opens a second
        self._puller: Puller | None = None
        self._open = ExitStack()

    def puller(self) -> Puller:
        with self._lock:
            if self._puller is None:
                with ExitStack() as opening:
                    puller = opening.enter_context(Puller(opening.enter_context(Store(self._root))))
                    self._open = opening.pop_all()
                self._puller = puller
            return self._puller

    def close(self) -> None:
        self._open.close()


class _Borrowed:
    """What the calls share, by root: opened by the first and closed by the last, so that nothing stays open behind the
    back of a program that pulled once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _shared and the number of users; nothing is opened or closed under it
        self._shared: dict[str, _Shared] = {}
        self._closing = Threads()

    @contextmanager
    def puller(self, root: str) -> Iterator[Puller]:
        with self._lock:
            shared = self._shared.setdefault(root, _Shared(root))
            shared.users += 1
        waits = False
        try:
            yield shared.puller()
            waits = True
        except Exception as error:
            waits = not isinstance(error, PullTimeoutError | PullCancelledError)
            raise
        finally:  # after an interrupt, too
            with self._lock:
                shared.users -= 1
                last = not shared.users
                if last:
                    del self._shared[root]
            if last and waits:
                shared.close()
            elif last:
                self._close_aside(shared)

    def join(self) -> None:
        """At exit: what is being closed has a moment to end."""
        self._closing.join()

    def _close_aside(self, shared: _Shared) -> None:
        """Closing waits for threads that may be where no cancel reaches: in getaddrinfo, or in a sync."""

        def close() -> None:
            try:
                shared.close()
            except ImgpullError:
                _log.info("the default store was not closed in order", exc_info=True)

        try:
            self._closing.start(close, "imgpull-close")
        except RuntimeError:  # no thread to be had
            close()


_borrowed = _Borrowed()


def _after_fork_in_child() -> None:
    global _borrowed  # noqa: PLW0603
    _borrowed = _Borrowed()  # the parent's threads and connections are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _at_exit() -> None:
    _borrowed.join()


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
    with _borrowed.puller(str(default_root())) as puller:
        return puller.pull(
            ref,
            platform=platform,
            policy=policy,
            unpack=unpack,
            timeout_seconds=timeout_seconds,
            cancel=cancel,
            progress=progress,
        )
