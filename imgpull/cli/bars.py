"""Progress bars, drawn by rich a few times a second from the trackers: imported only where they are shown."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imgpull.cli.output import one_line, shown_size
from imgpull.cli.progress import Blob, Phase, Tracker, short

if TYPE_CHECKING:
    from imgpull.store.images import Image

__all__ = ["Bars"]

_STYLES: dict[Phase, str] = {
    "waiting": "dim",
    "fetching": "cyan",
    "joined": "magenta",
    "unpacking": "yellow",
    "done": "green",
}
_WIDTH = 30
_ROWS = 24
"""Blobs shown in all; of more, those that something happens to."""


class Bars:
    """A line per blob while its pull runs; nothing stays when it ended."""

    holds_terminal = True

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        # Guards _running: trackers come and go in the main thread, rich reads in its own.
        self._lock = threading.Lock()
        self._running: list[Tracker] = []

    def running(self) -> AbstractContextManager[object]:
        return Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,  # results belong on stdout, wherever the bars are
            redirect_stderr=False,
        )

    def track(self, reference: str) -> Tracker:
        tracker = Tracker(reference)
        with self._lock:
            self._running.append(tracker)
        return tracker

    def finished(self, tracker: Tracker, image: Image | None) -> None:
        with self._lock:
            self._running.remove(tracker)

    def _render(self) -> RenderableType:
        with self._lock:
            trackers = list(self._running)
        rows = [(tracker, tracker.blobs()) for tracker in trackers]
        busy_only = sum(len(blobs) for _, blobs in rows) > _ROWS
        return Group(*(self._pull(tracker, blobs, busy_only) for tracker, blobs in rows))

    def _pull(self, tracker: Tracker, blobs: list[Blob], busy_only: bool) -> RenderableType:
        done = sum(blob.phase == "done" for blob in blobs)
        table = Table.grid(padding=(0, 1))
        for width in (None, None, _WIDTH, None):  # on a narrow terminal it is the bar that shrinks
            table.add_column(no_wrap=width is None, max_width=width)
        doing = "waiting for another process" if tracker.queued else "resolving"
        title = f"{tracker.reference} {f'{done}/{len(blobs)}' if blobs else doing}"
        for blob in blobs:
            if not busy_only or blob.phase in ("fetching", "unpacking"):
                table.add_row(*self._row(blob))
        return Group(Text(one_line(title), style="bold"), table)

    def _row(self, blob: Blob) -> tuple[RenderableType, ...]:
        total = shown_size(blob.size_bytes)
        known = blob.offset_bytes is not None and not blob.is_here
        arrived = blob.size_bytes if blob.is_here else min(blob.offset_bytes or 0, blob.size_bytes)
        return (
            Text("  " + short(blob.digest)),
            Text(blob.phase.ljust(9), style=_STYLES[blob.phase]),
            ProgressBar(total=max(1, blob.size_bytes), completed=max(arrived, not blob.size_bytes)),
            Text(f"{shown_size(arrived)} / {total}" if known else total),
        )
