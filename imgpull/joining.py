"""Joining what other processes do: one asks the registry, one pulls, and the others wait at a key without having
imported what those two need (docs/decisions/joining.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from imgpull.errors import ImgpullError, LockTimeoutError, PullCancelledError
from imgpull.events import EventSink, Queued, Woken
from imgpull.locking import Cancellation, Flight, KeyedLock, now_ns
from imgpull.registry import Registry, Resolution
from imgpull.store.answers import Answer, Answers

if TYPE_CHECKING:
    from imgpull.reference import Reference

__all__ = ["resolve_once", "turn"]


@contextmanager
def turn(keys: KeyedLock, key: str, cancel: Cancellation, say: EventSink) -> Iterator[None]:
    """Holds ``key`` within the block; who has to wait for it is told so. Raises PullCancelledError, StoreError."""
    with ExitStack() as stack:
        try:
            held = stack.enter_context(keys.hold(key, 0, cancel))
        except LockTimeoutError:
            say(Queued(key))
            held = stack.enter_context(keys.hold(key, cancel=cancel))
        if held.waited:
            say(Woken(key, found_held=False, slept_seconds=0.0))
        yield


def resolve_once(
    registry: Registry, reference: Reference, flight: Flight[Resolution], keys: KeyedLock, answers: Answers
) -> Resolution:
    """What the registry says of ``reference``, here or to another process: whoever has the key asks, and every call
    that had begun when it did is answered by that. Errors stay with the process that met them; those who waited for it
    ask then side by side, for in turn the last would wait for all the attempts of all the others."""
    terms = registry.terms(reference)
    if terms is not None:
        key = f"resolve://{reference} {terms}"
        with turn(keys, key, flight.cancel, flight.audience):
            answer = answers.read(key)
            if answer is None or not _serves(answer, flight):
                return _ask(registry, reference, flight, key, answers)
        if answer.digest is not None:
            return Resolution(answer.digest, answer.media_type, answer.size_bytes)
    flight.depart()
    return registry.resolve(reference, flight.cancel)


def _serves(answer: Answer, flight: Flight[Resolution]) -> bool:
    """Whether it is no older than anybody on board, and nobody else boards; looked at first, so that a flight that
    will have to ask can be boarded until then."""
    if answer.sent_ns <= flight.boarded_ns:
        return False
    flight.depart()
    return answer.sent_ns > flight.boarded_ns


def _ask(
    registry: Registry, reference: Reference, flight: Flight[Resolution], key: str, answers: Answers
) -> Resolution:
    registry.load()  # before the flight departs: whoever comes meanwhile is served, too
    flight.depart()
    sent_ns = now_ns()
    try:
        resolution = registry.resolve(reference, flight.cancel)
    except PullCancelledError:  # given up: the next in turn asks
        raise
    except ImgpullError:
        answers.write(key, Answer(sent_ns, None))
        raise
    answers.write(key, Answer(sent_ns, resolution.digest, resolution.media_type, resolution.size_bytes))
    return resolution
