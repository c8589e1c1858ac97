"""The one-call form: how long a call may take that is to end, and what it shares with the calls beside it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

import imgpull
from fakes.threads import DEADLINE_SECONDS, start, until
from imgpull import default
from imgpull.store import Store

NOWHERE = "registry.example/a/b:1"


def closing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "imgpull-close"]


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Name resolution waits, where no cancel reaches it: when it has begun, and what lets it end."""
    begun, go = threading.Event(), threading.Event()

    def getaddrinfo(*_: object, **__: object) -> object:
        begun.set()
        assert go.wait(DEADLINE_SECONDS)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("IMGPULL_HOME", str(tmp_path / "home"))
    return begun, go


def test_a_timeout_bounds_the_call_whatever_its_threads_are_in(
    unreachable: tuple[threading.Event, threading.Event],
) -> None:
    _, go = unreachable

    def call() -> None:
        with pytest.raises(imgpull.PullTimeoutError):
            imgpull.pull(NOWHERE, timeout_seconds=0.05)

    start(call).outcome()
    assert len(closing()) == 1
    go.set()
    until(lambda: not closing(), "the store is closed")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("imgpull")]


def test_a_cancel_ends_the_call_whatever_its_threads_are_in(
    unreachable: tuple[threading.Event, threading.Event],
) -> None:
    begun, go = unreachable
    cancel = imgpull.Cancellation()

    def call() -> None:
        with pytest.raises(imgpull.PullCancelledError):
            imgpull.pull(NOWHERE, cancel=cancel)

    caller = start(call)
    assert begun.wait(DEADLINE_SECONDS)
    cancel.cancel()
    caller.outcome()
    assert len(closing()) == 1
    go.set()
    until(lambda: not closing(), "the store is closed")


def test_a_store_that_opens_slowly_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast, opening, go = str(tmp_path / "slow"), str(tmp_path / "fast"), threading.Event(), threading.Event()

    def opened(root: str) -> Store:
        if root == slow:
            opening.set()
            assert go.wait(DEADLINE_SECONDS)
        return Store(root)

    def call() -> None:
        with pytest.raises(imgpull.OfflineError):
            imgpull.pull(NOWHERE, policy="never")

    monkeypatch.setattr(default, "Store", opened)
    monkeypatch.setenv("IMGPULL_HOME", slow)
    waits = start(call)
    assert opening.wait(DEADLINE_SECONDS)
    monkeypatch.setenv("IMGPULL_HOME", fast)
    start(call).outcome()
    assert waits.is_alive()
    go.set()
    waits.outcome()


def test_what_could_not_be_opened_is_opened_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    monkeypatch.setenv("IMGPULL_HOME", str(home))
    with pytest.raises(imgpull.StoreError):
        imgpull.pull(NOWHERE, policy="never")
    os.unlink(home)
    with pytest.raises(imgpull.OfflineError):
        imgpull.pull(NOWHERE, policy="never")
    assert not default._borrowed._shared
