"""Many timeouts, one thread."""

from __future__ import annotations

import threading

import pytest

from fakes.threads import DEADLINE_SECONDS, until
from imgpull.errors import StoreError
from imgpull.locking import Deadlines, Threads

FAR_OFF = 1e6


def test_many_that_are_far_off_share_a_thread_which_ends_with_them() -> None:
    threads = Threads()
    deadlines = Deadlines(threads)
    forget = [deadlines.after(FAR_OFF + number, lambda: None) for number in range(100)]
    assert len(threads._threads) == 1
    for forgotten in forget[:90]:
        forgotten()
    assert len(deadlines._times) <= 20
    for forgotten in forget:
        forgotten()
    threads.join()
    assert (deadlines._times, deadlines._pending) == ([], {})


def test_the_earlier_ones_come_first_whenever_they_were_asked_for() -> None:
    threads, order, done = Threads(), list[str](), threading.Event()
    deadlines = Deadlines(threads)
    forget = deadlines.after(FAR_OFF, lambda: order.append("late"))
    taken_back = deadlines.after(0.01, lambda: order.append("taken back"))
    taken_back()

    def early() -> None:
        order.append("early")
        done.set()

    deadlines.after(0, early)
    assert done.wait(DEADLINE_SECONDS)
    forget()
    threads.join()
    assert order == ["early"]


def test_one_that_takes_its_time_holds_up_no_other() -> None:
    threads, gate, done = Threads(), threading.Event(), threading.Event()
    deadlines = Deadlines(threads)
    deadlines.after(0, lambda: gate.wait(DEADLINE_SECONDS) and None)
    deadlines.after(0, done.set)
    assert done.wait(DEADLINE_SECONDS)
    gate.set()
    threads.join()


def test_after_the_last_it_begins_again() -> None:
    threads = Threads()
    deadlines, done = Deadlines(threads), list[int]()
    for number in range(2):
        deadlines.after(0, lambda number=number: done.append(number))  # type: ignore[misc]
        until(lambda: not threads._threads, "all have ended")
    assert done == [0, 1]


def test_where_no_thread_is_to_be_had_it_is_called_all_the_same() -> None:
    class One(Threads):
        def start(self, run: object, name: str) -> threading.Thread:
            if name != "imgpull-timeouts":
                raise RuntimeError("can't start new thread")
            return super().start(run, name)  # type: ignore[arg-type]

    done = threading.Event()
    Deadlines(One()).after(0, done.set)
    assert done.wait(DEADLINE_SECONDS)


def test_none_is_taken_on_that_nobody_would_watch() -> None:
    threads = Threads()
    deadlines = Deadlines(threads)
    threads.dismiss()
    with pytest.raises(StoreError, match="closed"):
        deadlines.after(0, lambda: None)
    assert not deadlines._pending
