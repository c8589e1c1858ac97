"""The tables: medians, spread, ratios, and the causes under them."""

from __future__ import annotations

from typing import Any

from benchmarks.report import comparison, counts, factor, growth, seconds


def run(arm: str, wall: float, **changed: Any) -> dict[str, Any]:
    record = {
        "record": "run", "scenario": "compare", "arm": arm, "image": "redis", "pulls": 20, "repeat": 1,
        "wall_seconds": wall, "user_seconds": 1.0, "system_seconds": 0.5, "max_rss_bytes": 60_000_000, "blob_gets": 8,
        "bytes_fetched": 47_000_000, "layers_applied": 6, "wakeups": 0, "wasted_wakeups": 0, "slept_seconds": 0.0,
        "transactions": 20, "tries": 0, "slept_in_transaction_seconds": 0.0, "image_bytes": 47_000_000,
        "image_layers": 6,
    }  # fmt: skip
    return {**record, **changed}


def cells(text: str, label: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(label))
    return [cell for cell in line.removeprefix(label).strip().split("  ") if cell]


def test_one_value_has_no_spread_and_several_have() -> None:
    assert seconds([1.0]) == "1.00 s"
    assert seconds([3.0, 1.0, 2.0]) == "2.00 s (1.00–3.00)"
    assert counts([7, 7], " MB") == "7 MB"
    assert counts([1000, 3000, 2000]) == "2 000 (1 000–3 000)"


def test_the_table_shows_the_ratio_to_the_first_arm() -> None:
    text = comparison([run("suppression", 0.5), run("backoff", 5.0), {"record": "timeline"}])
    assert "10.0 ×" in cells(text, "backoff")[-2]
    assert text.startswith("redis, 6 layers, 47.0 MB · 20 pulls at once")


def test_only_what_was_done_more_than_once_is_called_twice() -> None:
    worse = run("backoff", 5.0, layers_applied=39, bytes_fetched=94_000_000, slept_seconds=2.5)
    text = comparison([run("suppression", 0.5), worse])
    assert [cell.strip() for cell in cells(text, "layers applied twice")] == ["0", "33"]
    assert [cell.strip() for cell in cells(text, "bytes fetched twice")] == ["0 MB", "47 MB"]
    assert [cell.strip() for cell in cells(text, "seconds asleep, all pulls")] == ["0 s", "2.5 s"]


def test_a_cause_that_was_not_counted_is_left_out() -> None:
    record = run("suppression", 1.0, scenario="processes", manifest_heads=20)
    for field in ("layers_applied", "wakeups", "wasted_wakeups", "slept_seconds", "tries", "transactions"):
        del record[field]
    text = comparison([record])
    assert "20 processes at once" in text
    assert "GETs" in text
    assert [cell.strip() for cell in cells(text, "HEADs of manifests")] == ["20"]
    assert "wake-ups" not in text


def test_growth_has_a_row_for_each_step_and_a_gap_where_an_arm_stopped() -> None:
    steps = [run("suppression", 0.5, scenario="scale-pulls", pulls=count) for count in (1, 100)]
    text = growth([*steps, run("convoy", 9.0, scenario="scale-pulls", pulls=1)])
    assert [cell.strip() for cell in cells(text, "100 ")] == ["0.50 s", "–"]


def test_growth_says_what_a_further_duplicate_costs() -> None:
    steps = [run("suppression", wall, scenario="scale-pulls", pulls=count) for count, wall in ((1, 0.5), (101, 1.0))]
    assert "suppression, 101 pulls ÷ 1: 2.00, 5.00 ms for each further duplicate" in growth(steps).splitlines()


def test_images_are_compared_with_each_of_them_once() -> None:
    """The table shows the callers' runs; each image once is what they are divided by."""
    common = {"scenario": "scale-images", "images": 4}
    text = growth([run("suppression", 1.0, pulls=4, **common), run("suppression", 1.2, pulls=84, **common)])
    assert cells(text, "4 ") == ["1.20 s"]
    assert "suppression, 4 images, 84 pulls ÷ 4: 1.20, 2.50 ms for each further duplicate" in text.splitlines()


def test_a_factor_without_values_is_a_dash() -> None:
    assert factor([]) == "–"
    assert factor([1.5]) == "1.50"
    assert factor([3.0, 1.0, 2.0]) == "2.00 (1.00–3.00)"
