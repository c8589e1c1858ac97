"""Which colour a piece of a row gets; and that the pictures are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plot import Bar, PlotError, bars_of, merged, plot


def trace(*spans: tuple[str, str, float, float]) -> dict[str, Any]:
    return {"start_seconds": 0.0, "end_seconds": 9.0, "error": "", "spans": [list(span) for span in spans]}


def test_overlapping_sleeps_are_one_sleep() -> None:
    assert merged([(3.0, 4.0), (0.0, 2.0), (1.0, 2.5)]) == [(0.0, 2.5), (3.0, 4.0)]


def test_the_second_to_begin_a_layer_does_it_again() -> None:
    first, second = bars_of([trace(("unpacking", "aa", 2.0, 4.0)), trace(("unpacking", "aa", 1.0, 3.0))])
    assert first == [Bar("waiting", 0.0, 9.0), Bar("unpacking again", 2.0, 4.0)]
    assert second == [Bar("waiting", 0.0, 9.0), Bar("unpacking", 1.0, 3.0)]


def test_fetching_and_unpacking_one_layer_is_not_doing_it_twice() -> None:
    (row,) = bars_of([trace(("unpacking", "aa", 2.0, 3.0), ("fetching", "aa", 0.0, 2.0), ("asleep", "aa", 0.0, 1.0))])
    assert [bar.kind for bar in row] == ["waiting", "asleep", "fetching", "unpacking"]


def draw(folder: Path) -> list[Path]:
    run = {
        "record": "run", "scenario": "scale-pulls", "arm": "suppression", "image": "demo", "wall_seconds": 1.0,
        "image_bytes": 5, "image_layers": 1,
    }  # fmt: skip
    drawn = {"record": "timeline", "arm": "suppression", "image": "demo", "pulls": 1, "wall_seconds": 9.0}
    records = [{**run, "pulls": 1}, {**run, "pulls": 20}, {**drawn, "traces": [trace(("unpacking", "aa", 1.0, 2.0))]}]
    results = folder / "results.jsonl"
    results.write_text("".join(json.dumps(record) + "\n" for record in records))
    return plot(results, folder / "pictures")


@pytest.fixture(scope="module")
def _fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Matplotlib keeps the fonts of its first picture open, which would be taken for a leak of the test."""
    pytest.importorskip("matplotlib")
    draw(tmp_path_factory.mktemp("fonts"))


@pytest.mark.usefixtures("_fonts")
def test_pictures_are_written(tmp_path: Path) -> None:
    written = draw(tmp_path)
    assert [path.name for path in written] == ["timeline.png", "growth-pulls.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_results_with_nothing_to_draw_say_so(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = tmp_path / "results.jsonl"
    results.write_text('{"record": "environment"}\n')
    with pytest.raises(PlotError, match="nothing to draw"):
        plot(results, tmp_path)
