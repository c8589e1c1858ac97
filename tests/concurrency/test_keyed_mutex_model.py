"""Every interleaving of a few threads (frontrun), and proof that the search would see a bug: seeded mutants."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODEL = Path(__file__).with_name("keyed_mutex_model.py")

if importlib.util.find_spec("frontrun") is None:
    pytest.skip("frontrun is not installed: pip install 'imgpull[test]'", allow_module_level=True)


def _names(table: str) -> list[str]:
    """The keys of a table of the model, which can't be imported here: it needs frontrun's patched locks."""
    for node in ast.parse(MODEL.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
            assert isinstance(node.value, ast.Dict)
            return [key.value.id if isinstance(key, ast.Attribute) else key.value for key in node.value.keys]  # type: ignore[union-attr]
    raise AssertionError(table)


EXPLORATIONS = 3
"""On a busy machine frontrun loses a sleeping thread now and then, and says "Deadlock". The search is the same each
time, and so is what it finds: a deadlock that an equal search does not meet is none of KeyedMutex."""


def _explore(*names: str) -> dict[str, dict[str, Any]]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "frontrun.cli", sys.executable, str(MODEL), *names]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What frontrun says of every model and mutant, by name."""
    results = _explore()
    for _ in range(EXPLORATIONS - 1):
        lost = [name for name in _names("MODELS") if results[name]["explanation"].startswith("Deadlock")]
        if lost:
            results.update(_explore(*lost))
    return results


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", _names("MODELS"))
def test_holds_in_every_interleaving(found: dict[str, dict[str, Any]], name: str) -> None:
    assert found[name]["holds"] is True, found[name]["explanation"]
    assert found[name]["explored"] > 100


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", _names("MUTANTS"))
def test_a_seeded_bug_is_found(found: dict[str, dict[str, Any]], name: str) -> None:
    assert found[name]["holds"] is False
