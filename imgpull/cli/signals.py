"""What ends the command from outside: Ctrl-C, and SIGTERM, which is how a supervisor says the same.

The first signal is raised in the main thread as :class:`Interrupted`, so that everything is left in order: calls are
given up, partials stay, bars go. A second one, or an end that takes too long (nothing interrupts a call that waits for
a name server), ends the process at once, as a crash would, which the store is made to survive.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Interrupted", "Signals"]

_PATIENCE_SECONDS = 1.5
_SLEEP_SECONDS = 0.1
_WAKING = signal.SIGURG
"""Ignored by default, so nobody is hurt by one too many."""
_WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_SHOW_CURSOR = b"\x1b[?25h"
"""The bars hide it."""


class Interrupted(BaseException):
    """Not a KeyboardInterrupt, for which click prints an empty line."""

    def __init__(self, number: int) -> None:
        super().__init__(_WORDS[number])
        self.exit_code = 128 + number
        self.advice = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (*self.args, self.advice)))


class Signals:
    """The command's own handlers, in place of the default ones. Those of somebody else, and those of ``nohup``, which
    has signals ignored, stay; so does everything in a thread other than the main one, to which no signal comes."""

    def __init__(self) -> None:
        self._raised = threading.Event()
        self._reported = False

    @contextmanager
    def handled(self, *, whole_process: bool) -> Iterator[None]:
        """``whole_process``: it ends with the command. Then they stay, since the interpreter's end may be interrupted,
        too, and may take too long."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _WORDS if signal.getsignal(number) in _DEFAULTS}
        before[_WAKING] = signal.signal(_WAKING, lambda *_: None)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        watcher = threading.Thread(
            target=self._watch, args=(reading, whole_process), name="imgpull-signals", daemon=True
        )
        watcher.start()
        before_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in before.keys() & _WORDS.keys():
            signal.signal(number, self._arrived)
        try:
            yield
        finally:
            if not whole_process:
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(before_fd)
                os.close(writing)
                watcher.join()
                os.close(reading)

    def reported(self) -> None:
        """The user has been told; it is not to be said again."""
        self._reported = True

    def _arrived(self, number: int, _: FrameType | None) -> None:
        if not self._raised.is_set():
            self._raised.set()
            raise Interrupted(number)

    def _watch(self, reading: int, whole_process: bool) -> None:
        """On a thread of its own, which runs also where the main one is in a call that nothing interrupts."""
        first: Interrupted | None = None
        while first is None:
            arrived = os.read(reading, 1)
            if not arrived:
                return
            if signal.getsignal(arrived[0]) == self._arrived:
                first = Interrupted(arrived[0])
        # A signal just before the main thread falls asleep does not wake it: CPython looks, then sleeps.
        while not self._raised.wait(_SLEEP_SECONDS):
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKING)
        while not whole_process or select.select([reading], [], [], _PATIENCE_SECONDS)[0]:
            again = os.read(reading, 1)
            if not again:
                return
            if whole_process and again[0] != _WAKING:
                break
        self._end(first)

    def _end(self, first: Interrupted) -> NoReturn:
        if not self._reported:
            said = f"imgpull: error: {first}\n".encode()
            os.write(2, _SHOW_CURSOR + b"\r" + said if sys.stderr.isatty() else said)
        os._exit(first.exit_code)
