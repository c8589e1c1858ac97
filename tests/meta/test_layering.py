"""Imports point down: docs/architecture.md drawn from the code itself, TYPE_CHECKING imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "imgpull"
LAYERS = {
    "errors": 0, "events": 0, "limits": 0, "oci": 0,
    "reference": 1, "locking": 1,
    "registry": 2, "store": 2,
    "fetch": 3, "unpack": 3, "formats": 3,
    "calls": 4, "orders": 4, "stages": 4, "puller": 4, "serve": 4,
    "default": 5, "cli": 5,
    "__init__": 6, "__main__": 6,
}  # fmt: skip
STRANGERS = [("registry", "store"), ("fetch", "unpack"), ("serve", "puller"), ("serve", "registry")]
# `from imgpull import errors` in __init__, and the version the command prints.
SPECIAL_HOMES = {
    "sqlite3": "store/database",
    "sqlite_utils": "store/database",
    "requests": "registry/transport",
    "urllib3": "registry/transport",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_layer() -> None:
    assert {room_of(path) for path in modules()} <= set(LAYERS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    for module, line in imports(path):
        first, _, rest = module.partition(".")
        if first != "imgpull" or not rest:
            continue
        target = rest.split(".")[0]
        assert LAYERS[target] <= LAYERS[room], f"{path}:{line}: {room} imports {target}, which lies above it"
        for one, other in STRANGERS:
            assert {room, target} != {one, other}, f"{path}:{line}: {one} and {other} don't know each other"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_dependency_has_one_home(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    for module, line in imports(path):
        home = SPECIAL_HOMES.get(module.split(".")[0])
        assert home is None or where.startswith(home), f"{path}:{line}: {module} belongs in {home}"


def test_conditions_live_in_locking() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "Condition":
                assert room_of(path) == "locking" or "database" in path.parts, f"{path}:{node.lineno}"
