from __future__ import annotations

import threading

from fakes.threads import start, until
from imgpull.locking import thread_end


class Account:
    def __init__(self) -> None:
        self.ended: list[str] = []

    def thread_ended(self, thread: threading.Thread) -> None:
        self.ended.append(thread.name)

    def process_forked(self) -> None:
        raise AssertionError("not forked")


def test_every_registered_heir_is_told_once_of_a_thread_that_used_this_thread() -> None:
    accounts = [Account(), Account()]
    for account in accounts:
        thread_end.register(account)
    start(lambda: thread_end.this_thread.thread, "seen").done()
    until(lambda: all(account.ended for account in accounts), "both are told")
    assert [account.ended for account in accounts] == [["seen"], ["seen"]]


def test_a_thread_that_never_asked_is_not_reported() -> None:
    account = Account()
    thread_end.register(account)
    start(lambda: None, "unseen").done()
    start(lambda: thread_end.this_thread.thread, "seen").done()
    until(lambda: account.ended, "the one that asked is reported")
    assert account.ended == ["seen"]


def test_this_thread_is_the_calling_thread() -> None:
    assert thread_end.this_thread.thread is threading.current_thread()
    worker = start(lambda: thread_end.this_thread.thread)
    assert worker.outcome() is worker


def test_registering_keeps_nobody_alive() -> None:
    before = len(thread_end._heirs)
    thread_end.register(Account())
    assert len(thread_end._heirs) == before
