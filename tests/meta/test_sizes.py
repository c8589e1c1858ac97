"""A module fits in a sitting, a function on a screen, and one idea has one word."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "imgpull").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
MODULE_LINES = 400
FUNCTION_LINES = 50
FORBIDDEN = re.compile(r"(^|_)(download|job|extract|utils|helpers|manager)(s|ed|er|ing)?(_|$)", re.IGNORECASE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_words(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert not FORBIDDEN.search(node.name), f"{path}:{node.lineno}: {node.name}"
        elif isinstance(node, ast.arg):
            assert not FORBIDDEN.search(node.arg), f"{path}:{node.lineno}: {node.arg}"
    assert not FORBIDDEN.search(path.stem)
