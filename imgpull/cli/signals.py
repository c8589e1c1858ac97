"""What ends the command from outside: Ctrl-C, and SIGTERM, which is how a supervisor says the same.

The first signal is raised in the main thread as :class:`Interrupted`, so that everything is left in order: calls are
given up, partials stay, bars go. A second one, or an ordered end that takes too long (a name server that does not
answer can't be interrupted), ends the process at once, as a crash would, which the store is made to survive.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Interrupted", "Signals"]

_PATIENCE_SECONDS = 1.5
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
        self._first: Interrupted | None = None
        self._reported = False

    @contextmanager
    def handled(self, *, whole_process: bool) -> Iterator[None]:
        """``whole_process``: it ends with the command. Then they stay, since the interpreter's end may be interrupted,
        too, and may take too long."""
        mine = [number for number in _WORDS if signal.getsignal(number) in _DEFAULTS]
        if threading.current_thread() is not threading.main_thread():
            mine = []
        before = {number: signal.signal(number, self._arrived) for number in mine}
        try:
            yield
        finally:
            if not whole_process:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def reported(self) -> None:
        """The user has been told; it is not to be said again."""
        self._reported = True

    def _arrived(self, number: int, _: FrameType | None) -> None:
        if self._first is not None:
            self._end(self._first)
        first = self._first = Interrupted(number)
        if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            signal.signal(signal.SIGALRM, lambda *_: self._end(first))
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE_SECONDS)
        raise first

    def _end(self, first: Interrupted) -> NoReturn:
        if not self._reported:
            said = f"imgpull: error: {first}\n".encode()
            os.write(2, _SHOW_CURSOR + b"\r" + said if sys.stderr.isatty() else said)
        os._exit(first.exit_code)
