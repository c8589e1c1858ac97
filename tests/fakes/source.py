"""The package's source as syntax trees: what tests/meta reads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "imgpull"
BENCHMARKS = ROOT / "benchmarks"


def modules(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*.py") if "results" not in path.parts)
    assert found, f"no modules in {folder}"
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    """``imgpull/store/content.py`` is ``imgpull.store.content``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: ast.Module, package: str) -> Iterator[tuple[int, str, str]]:
    """Line, module and name ("" for ``import module``) of every import, wherever it stands: in functions, in ``try``
    and under ``if TYPE_CHECKING``. Relative ones are made absolute against ``package``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = ".".join(
                    filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], source])
                )
            for alias in node.names:
                yield node.lineno, source, alias.name


def loaded_by(statement: str) -> set[str]:
    """The modules in a fresh interpreter after ``statement``; coverage, which would load its own, stays out of it."""
    program = f"import sys; {statement}; print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    return set(done.stdout.split())
