"""Trackers count, phases are honest, bars draw."""

from __future__ import annotations

import io
import threading

import pytest

from imgpull.cli.progress import Blob, Tracker
from imgpull.events import (
    BlobAdvanced,
    BlobChanged,
    BlobRequested,
    BlobState,
    Event,
    LayerChanged,
    LayerState,
    LeftOut,
    Queued,
    Woken,
)

from .conftest import digest


@pytest.mark.parametrize(
    ("states", "layer_state", "phase", "outcome"),
    [
        ([], None, "waiting", "exists"),
        (["fetching"], None, "fetching", "fetched"),
        (["fetching"], "unpacking", "fetching", "fetched"),  # it is the network one waits for
        (["joined"], None, "joined", "joined"),
        (["fetching", "joined"], None, "joined", "joined"),
        (["joined", "fetching", "fetched"], "unpacking", "unpacking", "joined"),
        (["joined", "fetching", "fetched"], "applied", "done", "joined"),
        (["fetched"], None, "done", "fetched"),  # a config, or nothing is to be unpacked
        (["fetched"], "waiting", "waiting", "fetched"),  # for the layers below it
        (["fetched"], "unpacking", "unpacking", "fetched"),
        (["fetched"], "applied", "done", "fetched"),
        (["exists"], None, "done", "exists"),
        (["joined", "exists"], None, "done", "exists"),
        (["waiting"], "exists", "done", "exists"),
        (["skipped"], None, "done", "skipped"),
    ],
)
def test_phase_and_outcome(
    states: list[BlobState], layer_state: LayerState | None, phase: str, outcome: str
) -> None:
    blob = Blob("sha256:x", layer_state=layer_state)
    for state in states:
        blob.change(state, 1000)
    assert (blob.phase, blob.outcome) == (phase, outcome)


def test_tracker_counts_from_many_threads() -> None:
    told: list[Event] = []
    tracker = Tracker("redis", lambda _, event: told.append(event))
    changed = BlobChanged(digest("a"), 80_000, "fetching")
    tracker(changed)
    tracker(BlobRequested(digest("a"), "docker.io", 0))

    def advance() -> None:
        for _ in range(1000):
            tracker(BlobAdvanced(digest("a"), 10))

    threads = [threading.Thread(target=advance, name=f"advance-{number}") for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert tracker.fetched_bytes == 80_000
    assert told == [changed, BlobRequested(digest("a"), "docker.io", 0)]  # a block is no news


def test_a_bar_begins_where_the_partial_ends() -> None:
    tracker = Tracker("redis")
    tracker(BlobChanged(digest("a"), 1000, "fetching"))
    tracker(BlobRequested(digest("a"), "docker.io", 300))
    tracker(BlobAdvanced(digest("a"), 100))
    assert [(blob.offset_bytes, blob.fetched_bytes) for blob in tracker.blobs()] == [(400, 100)]
    tracker(BlobAdvanced(digest("a"), -100))  # wrong bytes: once more from zero
    tracker(BlobChanged(digest("a"), 1000, "fetching"))
    tracker(BlobRequested(digest("a"), "docker.io", 0))
    tracker(BlobAdvanced(digest("a"), 1000))
    assert [(blob.offset_bytes, blob.fetched_bytes) for blob in tracker.blobs()] == [(1000, 1100)]


def test_what_is_left_out_is_added_up() -> None:
    tracker = Tracker("redis")
    assert tracker.left_out == ""
    tracker(LeftOut(digest("a"), digest("a"), (("devices (not root)", 1), ("owners (not root)", 5))))
    tracker(LeftOut(digest("b"), digest("b"), (("owners (not root)", 10),)))
    assert tracker.left_out == "1 device (not root), 15 owners (not root)"


def test_tracker_may_be_asked_by_whom_it_tells() -> None:
    seen: list[str] = []
    tracker = Tracker("redis", lambda tracker, event: seen.append(tracker.blobs()[0].phase))
    tracker(BlobChanged(digest("a"), 1, "fetching"))
    tracker(LayerChanged(digest("a"), digest("a"), "applied"))
    assert seen == ["fetching", "done"]


def test_bars_draw_a_row_for_each_blob_and_leave_nothing() -> None:
    pytest.importorskip("rich")
    from rich.console import Console

    from imgpull.cli.bars import Bars

    bars = Bars(Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None))
    tracker = bars.track("docker.io/library/redis:7.2")
    assert shown(bars) == "docker.io/library/redis:7.2 resolving\n"
    tracker(Queued("image://docker.io/library/redis"))
    assert shown(bars) == "docker.io/library/redis:7.2 waiting for another process\n"
    tracker(Woken("image://docker.io/library/redis", found_held=False, slept_seconds=0.0))
    assert shown(bars) == "docker.io/library/redis:7.2 resolving\n"
    tracker(BlobChanged(digest("a"), 2000, "fetching"))
    tracker(BlobAdvanced(digest("a"), 500))
    tracker(BlobChanged(digest("b"), 10, "joined"))
    tracker(BlobAdvanced(digest("b"), 5))  # of what came before we joined nobody told us
    tracker(BlobChanged(digest("1"), 0, "fetched"))  # a manifest: too small for a bar
    tracker(BlobChanged(digest("c"), 2000, "fetched"))
    tracker(LayerChanged(digest("c"), digest("c"), "applied"))
    title, *rows = shown(bars).splitlines()
    assert title == "docker.io/library/redis:7.2 1/3"
    assert [row.split()[:2] for row in rows] == [["a" * 12, "fetching"], ["b" * 12, "joined"], ["c" * 12, "done"]]
    assert rows[0].endswith(" 500 B / 2.0 kB") and "/" not in rows[1] and "/" not in rows[2]
    with bars.running():
        bars.finished(tracker, None)
    assert shown(bars) == ""


def test_a_narrow_terminal_folds_no_row() -> None:
    pytest.importorskip("rich")
    from imgpull.cli.bars import Bars

    bars = Bars()
    tracker = bars.track("redis")
    tracker(BlobChanged(digest("a"), 20_000_000, "fetching"))
    assert [line.split()[-2:] for line in shown(bars, width=46).splitlines()[1:]] == [["20.0", "MB"]]
    assert len(shown(bars, width=20).splitlines()) == 2


def test_of_many_blobs_the_busy_ones_are_drawn() -> None:
    pytest.importorskip("rich")
    from rich.console import Console

    from imgpull.cli.bars import Bars

    bars = Bars(Console(file=io.StringIO(), force_terminal=True, width=100))
    tracker = bars.track("redis")
    for number in range(40):
        tracker(BlobChanged(f"sha256:{number:064x}", 10, "fetching" if number == 7 else "waiting"))
    assert len(shown(bars).splitlines()) == 2


def shown(bars: object, width: int = 100) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(bars._render())  # type: ignore[attr-defined]
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "".join(line.rstrip() + "\n" for line in text.splitlines() if line.strip())
