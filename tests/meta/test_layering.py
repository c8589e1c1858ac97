"""Imports point down (docs/architecture): proved over the syntax trees, TYPE_CHECKING imports included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fakes.source import PACKAGE, imports, modules, name_of, tree

LAYERS = {
    "errors": 0,
    "events": 0,
    "limits": 0,
    "oci": 0,
    "reference": 1,
    "locking": 1,
    "registry": 2,
    "store": 2,
    "fetch": 3,
    "unpack": 3,
    "formats": 3,
    "puller": 4,
    "serve": 4,
    "cli": 5,
    "__main__": 6,
}
"""A room that is not here fails the test: it needs a number, and a page in docs/decisions."""

SAME_ROOM = dict.fromkeys(("calls", "default", "joining", "orders", "stages", "traffic"), "puller")
"""Modules beside the package's rooms that belong to one of them."""

WITHIN_LAYER = {("events", "errors"), ("limits", "errors"), ("oci", "errors"), ("oci", "limits")}
"""The foundation is not flat: errors imports nothing, and everything may import errors."""

ONLY_IN = {
    "sqlite3": "imgpull.store.database",
    "sqlite_utils": "imgpull.store.database",
    "requests": "imgpull.registry.transport",
    "urllib3": "imgpull.registry.transport",
    "tarfile": "imgpull.formats",
    "click": "imgpull.cli",
    "rich": "imgpull.cli",
}

CONDITIONS_ELSEWHERE = {
    "imgpull.store.blob_writer": "followers of an ingest wait for its bytes, not for a key",
    "imgpull.fetch.fetches": "the threads of one pull wait for blobs, each for its own; a queue has one reader",
}
"""Modules outside ``locking`` that use ``threading.Condition``, each with its reason. Never for keys."""


def rooms_of_public_names() -> dict[str, str]:
    """Which room a name of ``imgpull`` itself comes from; what is no room's (``__version__``) is nobody's."""
    for node in tree(PACKAGE / "__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            return {name: home.split(".")[0] for name, home in ast.literal_eval(node.value).items()}
    raise AssertionError("imgpull/__init__.py has no _HOMES")


def room_of(module: str, name: str = "") -> str | None:
    """The room of ``module`` (and ``name`` in it), or None for what is outside the package or belongs to no room."""
    parts = module.split(".")
    if parts[0] != "imgpull":
        return None
    if len(parts) > 1:
        room = parts[1]
    elif (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file():
        room = name
    else:
        room = rooms_of_public_names().get(name, "errors" if name.endswith("Error") else "")
    return SAME_ROOM.get(room, room) or None


def wrong_imports(module: str, source: ast.Module) -> list[str]:
    """Every import of ``module`` that does not point down."""
    own = room_of(module)
    package = module if (PACKAGE / Path(*module.split(".")[1:])).is_dir() else module.rpartition(".")[0]
    wrong = []
    for line, target, name in imports(source, package):
        room = room_of(target, name)
        if room is None or own is None or room == own or (own, room) in WITHIN_LAYER:
            continue
        if LAYERS[room] >= LAYERS[own]:
            wrong.append(f"{module}:{line}: {own} ({LAYERS[own]}) imports {room} ({LAYERS[room]})")
    return wrong


def conditions(source: ast.Module) -> list[int]:
    """Lines that name ``threading.Condition``."""
    return [
        node.lineno
        for node in ast.walk(source)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "threading.Condition")
        or (isinstance(node, ast.ImportFrom) and node.module == "threading" and _names(node, "Condition"))
    ]


def _names(node: ast.ImportFrom, name: str) -> bool:
    return any(alias.name in {name, "*"} for alias in node.names)


MODULES = modules(PACKAGE)


@pytest.mark.parametrize("path", [path for path in MODULES if path != PACKAGE / "__init__.py"], ids=name_of)
def test_imports_point_down(path: Path) -> None:
    module = name_of(path)
    assert room_of(module) in LAYERS, "a new room needs a number"
    assert wrong_imports(module, tree(path)) == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_used_in_one_place_only(library: str) -> None:
    home = ONLY_IN[library]
    elsewhere = [
        f"{name_of(path)}:{line}"
        for path in MODULES
        for line, target, _ in imports(tree(path), "")
        if target.split(".")[0] == library and not f"{name_of(path)}.".startswith(f"{home}.")
    ]
    assert elsewhere == []


def test_conditions_are_for_keys_and_keys_are_in_locking() -> None:
    users = {name_of(path) for path in MODULES if conditions(tree(path))}
    assert "imgpull.locking.keyed_mutex" in users
    assert {user for user in users if not user.startswith("imgpull.locking")} == set(CONDITIONS_ELSEWHERE)


def test_every_room_that_is_listed_exists_or_is_to_come() -> None:
    rooms = {room_of(name_of(path)) for path in MODULES} - {None}
    assert set(LAYERS) - rooms <= {"formats"}


class TestItWouldBeSeen:
    """The proof has teeth: each of these is an import that must be found."""

    @pytest.mark.parametrize(
        ("module", "line"),
        [
            ("imgpull.store.content", "from imgpull.registry import Host"),
            ("imgpull.registry.client", "import imgpull.store"),
            ("imgpull.fetch.fetcher", "from imgpull.unpack import Unpacker"),
            ("imgpull.unpack.layer", "def f():\n    from imgpull.fetch import Fetcher"),
            ("imgpull.oci.digest", "if TYPE_CHECKING:\n    from imgpull.reference import Reference"),
            ("imgpull.errors", "from imgpull.limits import Limits"),
            ("imgpull.locking.flight", "from imgpull import Reference"),
            ("imgpull.store.content", "from imgpull import Puller"),
            ("imgpull.store.content", "from imgpull import puller"),
            ("imgpull.store.content", "from imgpull.stages import Layers"),
            ("imgpull.store.snapshots.layer", "from ...unpack import Applier"),
            ("imgpull.serve", "from imgpull.puller import Puller"),
            ("imgpull.puller", "from imgpull.cli import main"),
        ],
    )
    def test_up_or_across(self, module: str, line: str) -> None:
        assert len(wrong_imports(module, ast.parse(line))) == 1

    @pytest.mark.parametrize(
        ("module", "line"),
        [
            ("imgpull.oci.digest", "from imgpull.errors import InvalidImageError"),
            ("imgpull.oci.digest", "from imgpull import DigestMismatchError"),
            ("imgpull.serve.handler", "from imgpull import __version__"),
            ("imgpull.store.snapshots.layer", "from .node import Node"),
            ("imgpull.puller", "from imgpull.calls import Call"),
            ("imgpull.puller", "import threading, requests"),
        ],
    )
    def test_down_or_within(self, module: str, line: str) -> None:
        assert wrong_imports(module, ast.parse(line)) == []

    @pytest.mark.parametrize("line", ["x = threading.Condition()", "from threading import Condition"])
    def test_a_condition(self, line: str) -> None:
        assert conditions(ast.parse(line)) == [1]
