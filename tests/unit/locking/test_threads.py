"""The threads that fly: none is left."""

from __future__ import annotations

import threading

import pytest

from fakes.threads import DEADLINE_SECONDS, start
from imgpull.errors import StoreError
from imgpull.locking import Threads


def test_a_store_that_was_closed_starts_no_thread() -> None:
    threads = Threads()
    threads.dismiss()
    with pytest.raises(StoreError, match="closed"):
        threads.start(lambda: None, "late")


def test_joining_from_one_of_the_threads_does_not_wait_for_itself() -> None:
    threads, joined = Threads(), threading.Event()

    def run() -> None:
        threads.join()
        joined.set()

    threads.start(run, "imgpull-test")
    assert joined.wait(DEADLINE_SECONDS)


def test_an_interrupted_start_that_started_is_joined_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, gate, ended = Threads(), threading.Event(), threading.Event()
    starting = threading.Thread.start

    def interrupted(self: threading.Thread) -> None:
        starting(self)
        raise KeyboardInterrupt

    def run() -> None:
        assert gate.wait(DEADLINE_SECONDS)
        ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            threads.start(run, "imgpull-test")
    joining = start(threads.join)
    gate.set()
    joining.outcome()
    assert ended.is_set()


def test_an_exit_waits_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the main thread has ended, the interpreter is on its way out."""
    threads, gate = Threads(), threading.Event()
    threads.start(lambda: gate.wait(DEADLINE_SECONDS) and None, "imgpull-test")
    ended = threading.Thread()
    monkeypatch.setattr(threading, "main_thread", lambda: ended)
    monkeypatch.setattr("imgpull.locking.threads._EXIT_SECONDS", 0.01)
    start(threads.join).outcome()
    gate.set()
