"""Slots: bounded, in turn, and lent while their holder waits."""

from __future__ import annotations

import threading

import pytest

from fakes.threads import start, until
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
