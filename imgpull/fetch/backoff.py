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
    import tenacity

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
    try:
        return open_once()
    except RefLockedError as error:
        failures = [error]
    import tenacity  # 30 ms, and only the arm without suppression ever gets here

    draw = (rng or random).randrange  # the process's own generator, so that who seeds that seeds the sleeps
    slept_seconds = 0.0

    def attempt() -> T:
        if failures:  # tenacity counts the first one, too
            raise failures.pop()
        found_held = False  # nor where it raises AlreadyExistsError: how a sleeper mostly wakes
        try:
            return open_once()
        except RefLockedError:
            found_held = True
            raise
        finally:
            if slept_seconds:
                say(Woken(ref, found_held=found_held, slept_seconds=slept_seconds))

    def wait(state: tenacity.RetryCallState) -> float:
        bound_ms = min(_FIRST_MS << min(state.attempt_number - 1, 16), _LAST_MS)
        return draw(bound_ms) / 1000

    def sleep(seconds: float) -> None:
        nonlocal slept_seconds
        slept_seconds = seconds
        cancel.wait(seconds)
        cancel.raise_if_cancelled()

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RefLockedError), wait=wait, sleep=sleep, reraise=True
    )
    return retrying(attempt)
