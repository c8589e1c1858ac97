"""``make demo``: the problem and its fix, on this machine, with nothing but loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.demo_image import DEMO
from benchmarks.images import ensure
from benchmarks.plot import PlotError, plot
from benchmarks.report import comparison, header_line
from benchmarks.scenarios import Record, opened, setting_of

__all__ = ["run_demo"]

_ARMS = ("suppression", "backoff", "convoy")
_CONVOY_PULLS = 5  # twenty take a minute or two; five show it

_MEANING = """\
suppression: the first caller fetches and unpacks, the other {others} wait for it. One of each.
backoff:     what containerd's clients did: a locked ref is tried again after a random sleep of up to 2 s, and every
             pull unpacks every layer to throw all but one away.
convoy:      containerd before the change: it also slept inside the one write transaction, so that even the pull that
             held the ref had to queue behind those that waited for it ({convoy} pulls here: it grows with each)."""


def run_demo(pulls: int, out: Path, say: Callable[[str], None]) -> None:
    """Builds the demo's image, pulls it in every arm, prints the tables and says where to look."""
    out.mkdir(parents=True, exist_ok=True)
    results = out / "demo.jsonl"
    layout = ensure(DEMO, out / "images", say)
    records: list[Record] = []
    with opened(setting_of(DEMO, [layout]), "full", "embedded") as bench:
        records.append(bench.header())
        for arm in _ARMS:
            count = min(pulls, _CONVOY_PULLS) if arm == "convoy" else pulls
            say(f"{count} pulls at once, {arm} …")
            bench.compare([arm], count, 1, processes=False, timeline=True, emit=records.append)
        rootfs = _rootfs(bench.served.references[0], out)
    results.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    say(f"\n{header_line(records[0])}\n\n{comparison(_runs(records, pulls))}\n")
    say(_MEANING.format(others=pulls - 1, convoy=min(pulls, _CONVOY_PULLS)))
    say(_convoy_line(records))
    _draw(results, out, say)
    say(f"\nthe numbers, as JSON lines: {results}\nthe unpacked root file system: {rootfs}")


def _runs(records: list[Record], pulls: int) -> list[Record]:
    """The runs that may stand in one table: those with the same number of pulls."""
    return [record for record in records if record["record"] == "run" and record["pulls"] == pulls]


def _convoy_line(records: list[Record]) -> str:
    (run,) = (record for record in records if record["record"] == "run" and record["arm"] == "convoy")
    return f"\nconvoy, {run['pulls']} pulls: {run['wall_seconds']:.2f} s, {run['tries']} times a writer was refused"


def _rootfs(reference: str, out: Path) -> Path:
    import imgpull

    target = out / "rootfs"
    shutil.rmtree(target, ignore_errors=True)
    with imgpull.Store(out / "store") as store, imgpull.Puller(store) as puller:
        store.unpack(puller.pull(reference), target)
    return target


def _draw(results: Path, out: Path, say: Callable[[str], None]) -> None:
    try:
        for picture in plot(results, out):
            say(f"\nwho waited on whom, as a picture: {picture}")
    except (PlotError, ImportError) as error:
        say(f"\nno picture: {error}")
