"""pytest-benchmark cases: ``python -m pytest benchmarks/test_pull.py``. Not collected by ``make test``.

Five callers pull the demo's image at once into a store that is empty in every round. For comparisons between arms use
``python -m benchmarks compare``: it gives each run a process of its own and a journalled file system.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.baselines import Arm, arm_called
from benchmarks.demo_image import build_demo
from benchmarks.origin import Origin, origin

_CALLERS = 5
_ROUNDS = 3


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    layout = build_demo(tmp_path_factory.mktemp("images"), lambda _: None)
    with origin([layout], "embedded") as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["suppression", "backoff"])
def test_pull_at_once(benchmark: BenchmarkFixture, served: Origin, tmp_path: Path, name: str) -> None:
    arm = arm_called(name)
    stores = (tmp_path / f"round-{number}" for number in range(_ROUNDS + 1))

    def cold_store() -> tuple[tuple[Arm, Path, str], dict[str, object]]:
        return (arm, next(stores), served.references[0]), {}

    measured: Any = benchmark  # pedantic() carries no types
    chains = measured.pedantic(_pull_at_once, setup=cold_store, rounds=_ROUNDS, iterations=1)
    assert len(chains) == _CALLERS
    assert len(set(chains)) == 1


def _pull_at_once(arm: Arm, root: Path, reference: str) -> list[str]:
    """The chain ID that each of the callers got."""
    chains: list[str] = []
    barrier = threading.Barrier(_CALLERS)

    def call() -> None:
        with arm.make_puller(store) as puller:
            barrier.wait()
            chains.append(str(puller.pull(reference).chain_id))

    with arm.open_store(str(root), "full") as store:
        callers = [threading.Thread(target=call, name=f"caller-{number}") for number in range(_CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    return chains
