"""Slots: bounded, in turn, and lent while their holder waits."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from fakes.threads import Worker, start, until
from imgpull.errors import PullCancelledError
from imgpull.locking import Cancellation, Slots


def test_a_slot_is_held_for_the_block() -> None:
    slots = Slots(2)
    with slots.take(), slots.take() as second:
        assert (slots.free, second.held) == (0, True)
    assert (slots.free, second.held) == (2, False)


def test_a_slot_that_is_lent_is_anybodys_and_is_waited_for_in_turn() -> None:
    slots = Slots(1)
    taken, give_back = threading.Event(), threading.Event()

    def other() -> None:
        with slots.take():
            taken.set()
            give_back.wait(20)

    with slots.take() as slot:
        worker = start(other)
        with slot.lent():
            assert taken.wait(20) and not slot.held
            threading.Timer(0, lambda: (until(lambda: slots._queue, "the lender to queue"), give_back.set())).start()
        assert slot.held and slots.free == 0
    worker.outcome()
    assert slots.free == 1


def test_lending_what_one_has_not_does_nothing() -> None:
    slots = Slots(1)
    slot = slots.take()
    with slot.lent():
        assert slots.free == 1
    assert not slot.held
    with slot, slot.lent(), slot.lent():
        assert slots.free == 1
    assert slots.free == 1


def test_an_error_while_it_is_lent_needs_no_slot_to_travel() -> None:
    slots = Slots(1)
    with pytest.raises(ValueError, match="bytes"), slots.take() as slot, slot.lent():
        raise ValueError("bytes")
    assert slots.free == 1


def test_cancelled_while_it_queues_for_what_it_lent() -> None:
    slots, cancel = Slots(1), Cancellation()
    with pytest.raises(PullCancelledError), slots.take(cancel) as slot, slot.lent():
        other = slots.take()
        other.__enter__()
        cancel.cancel()
    assert slots.free == 0
    other.__exit__(None, None, None)
    assert slots.free == 1


def _queue(slots: Slots, served: list[float], weights: Sequence[float]) -> list[Worker]:
    workers = []
    for weight in weights:

        def queue(weight: float = weight) -> None:
            with slots.take(weight=weight):
                served.append(weight)

        waiting = len(slots._queue) + 1
        workers.append(start(queue))
        until(lambda: len(slots._queue) == waiting, "it to queue")  # noqa: B023
    return workers


def test_who_has_most_to_do_comes_first_and_of_equals_the_first() -> None:
    slots, served = Slots(1), list[float]()
    with slots.take(weight=5) as slot:
        assert not slot.outweighed
        workers = _queue(slots, served, [1, 5.0])
        assert not slot.outweighed
        workers += _queue(slots, served, [7, 5, 0])
        assert slot.outweighed
    for worker in workers:
        worker.outcome()
    assert served == [7, 5.0, 5, 1, 0]
    assert not slot.outweighed and slots.free == 1


def test_who_gives_up_outweighs_nobody() -> None:
    slots, cancel = Slots(1), Cancellation()
    with slots.take(weight=1) as slot:

        def queue() -> None:
            with slots.take(cancel, weight=2):
                pass

        worker = start(queue)
        until(lambda: slot.outweighed, "it to queue")
        cancel.cancel()
        with pytest.raises(PullCancelledError):
            worker.outcome()
        assert not slot.outweighed


def test_nobody_is_passed_over_for_ever() -> None:
    slots, served = Slots(1), list[float]()
    with slots.take():
        workers = _queue(slots, served, [1, *[2] * 20])
    for worker in workers:
        worker.outcome()
    assert served.index(1) == 16


def test_whose_turn_it_is_after_all_who_outweighed_it_keeps_the_slot() -> None:
    slots, looked = Slots(1), list[bool]()

    def light() -> None:
        with slots.take(weight=1) as slot:
            looked.append(slot.outweighed)
            with slot.lent():
                pass
            looked.append(slot.outweighed)

    with slots.take():
        worker = start(light)
        until(lambda: len(slots._queue) == 1, "it to queue")
        others = _queue(slots, [], [2] * 20)
    for done in (worker, *others):
        done.outcome()
    assert looked[0] is False
