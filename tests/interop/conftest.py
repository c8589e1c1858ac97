"""Real programs on the other side; each test is skipped, with the reason, where one is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from benchmarks.origin import Origin, origin


@pytest.fixture(autouse=True)
def _programs(request: pytest.FixtureRequest) -> None:
    """``@pytest.mark.realpeer("umoci", …)`` names what the test runs."""
    marker = request.node.get_closest_marker("realpeer")
    missing = [program for program in (marker.args if marker else ()) if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not on PATH")


@pytest.fixture(scope="module")
def registry() -> Iterator[Origin]:
    """docker-registry with nothing in it."""
    missing = [program for program in ("docker-registry", "skopeo") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not on PATH")
    with origin([], "registry") as running:
        yield running
