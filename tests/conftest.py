"""What every test gets: the fakes on the path, stacks when it hangs, and proof that it left nothing behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import imgpull
    from fakes.registry import FakeRegistry

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So has a suite begun in the background of a script, and so would every process that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LEAK_DEADLINE_SECONDS = 3.0
"""How long a thread or a descriptor may take to go away after the test: a close() that joins has done so already."""

OWN_THREADS = "imgpull"
"""The prefix of every thread name of the library."""

_DESCRIPTORS = next((path for path in ("/proc/self/fd", "/dev/fd") if os.path.isdir(path)), "")


def _timeout_seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        return float(marker.args[0] if marker.args else marker.kwargs.get("timeout", 0))
    return float(item.config.getini("timeout") or 0)


@pytest.fixture(autouse=True)
def _stacks_of_a_hang(request: pytest.FixtureRequest) -> Iterator[None]:
    """Just before pytest-timeout ends a test, write every thread's stack, those blocked in C included."""
    timeout_seconds = _timeout_seconds(request.node)
    if timeout_seconds > 1:
        faulthandler.dump_traceback_later(timeout_seconds - 1, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(OWN_THREADS)}


def _descriptors() -> set[tuple[int, str]]:
    """Open descriptors and what they are open on; a number alone may have been closed and given out again."""
    found = set()
    for name in os.listdir(_DESCRIPTORS) if _DESCRIPTORS else ():
        try:
            place = os.readlink(f"{_DESCRIPTORS}/{name}")
            if "/matplotlib/" not in place:  # it keeps the fonts it has loaded open
                found.add((int(name), place))
        except OSError:  # the listing's own descriptor, closed since
            continue
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """No thread of the library and no descriptor that the test opened outlives it."""
    threads, descriptors = _threads(), _descriptors()
    yield
    deadline = time.monotonic() + LEAK_DEADLINE_SECONDS
    while (left := (_threads() - threads, _descriptors() - descriptors)) != (set(), set()):
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: threads {sorted(t.name for t in left[0])}, descriptors {sorted(left[1])}")
        gc.collect()  # an exception that a test looked at keeps the frames it passed through
        time.sleep(0.01)


# -- what a pull needs -----------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    from fakes.registry import FakeRegistry

    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> Iterator[imgpull.Store]:
    import imgpull

    with imgpull.Store(tmp_path / "store", durability="none") as store:
        yield store
