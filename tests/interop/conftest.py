"""Real programs on the other side; each test is skipped, with the reason, where one is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from benchmarks.origin import Origin, origin


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.realpeer("umoci", …)`` names what the test and its fixtures run."""
    marker = item.get_closest_marker("realpeer")
    missing = [program for program in (marker.args if marker else ()) if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not on PATH")


@pytest.fixture(scope="module")
def registry() -> Iterator[Origin]:
    """docker-registry with nothing in it."""
    with origin([], "registry") as running:
        yield running
