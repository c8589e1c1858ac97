from __future__ import annotations

import os
import subprocess
import sys

HEAVY = {"requests", "urllib3", "sqlite3", "sqlite_utils", "tenacity", "rich", "concurrent.futures", "asyncio", "ssl"}


def test_these_values_cost_no_heavy_import() -> None:
    program = "import sys, imgpull.oci, imgpull.reference; print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    )
    assert HEAVY.isdisjoint(done.stdout.split())
