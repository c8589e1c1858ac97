from __future__ import annotations

from fakes.source import loaded_by

HEAVY = {"requests", "urllib3", "sqlite3", "sqlite_utils", "tenacity", "rich", "concurrent.futures", "asyncio", "ssl"}


def test_these_values_cost_no_heavy_import() -> None:
    assert HEAVY.isdisjoint(loaded_by("import imgpull.oci, imgpull.reference"))
