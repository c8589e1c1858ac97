"""The back-off that duplicate suppression replaces: containerd's ``content.OpenWriter``, number for number.

With suppression nobody meets a locked ref, except where two keyed locks guard one store. Without it this is where
nineteen of twenty pulls spend their time: asleep, for up to two seconds after the ref became free.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from imgpull.errors import RefLockedError
from imgpull.events import EventSink, Woken

if TYPE_CHECKING:
    from imgpull.locking import Cancellation

__all__ = ["open_writer"]

T = TypeVar("T")

_FIRST_MS, _LAST_MS = 16, 2048  # containerd core/content/helpers.go, OpenWriter: retry := 16; if retry < 2048 { <<= 1 }


def open_writer(
    open_once: Callable[[], T],
    ref: str,
    cancel: Cancellation,
    say: EventSink,
    rng: random.Random | None = None,
) -> T:
    """What ``open_once`` returns, tried until its ref is not locked: after the n-th failure sleep a random time in
    [0, 16 · 2ⁿ⁻¹) ms, at most 2 048, for ever. Raises any other error of it at once, PullCancelledError on cancel."""
    draw = (rng or random).randrange  # the process's own generator, so that who seeds that seeds the sleeps
    bound_ms, slept_seconds = _FIRST_MS, 0.0
    while True:
        found_held = False  # nor where it raises AlreadyExistsError: how a sleeper mostly wakes
        try:
            return open_once()
        except RefLockedError:
            found_held = True
        finally:
            if slept_seconds:
                say(Woken(ref, found_held=found_held, slept_seconds=slept_seconds))
        slept_seconds = draw(bound_ms) / 1000
        bound_ms = min(bound_ms * 2, _LAST_MS)
        cancel.wait(slept_seconds)
        cancel.raise_if_cancelled()
