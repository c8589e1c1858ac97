"""What ``import imgpull`` offers, and what it costs."""

from __future__ import annotations

import ast
import importlib

import pytest

import imgpull
from fakes.source import PACKAGE, loaded_by, tree
from imgpull import errors

PROMISED = {"Store", "Puller", "pull", "Image", "Cancellation", "KeyedMutex", "NoSuppression", "Rootfs"}
"""The names that users' code was promised, beside the errors."""

HEAVY = {
    *("requests", "urllib3", "http.client", "sqlite3", "sqlite_utils", "tenacity", "concurrent.futures", "asyncio"),
    *("backports.zstd", "compression.zstd", "isal", "click", "rich", "ssl", "tarfile", "subprocess"),
}
"""What importing the package must not load: together more than half a second."""

HOMES: dict[str, str] = imgpull._HOMES


def test_at_most_25_names_beside_the_errors() -> None:
    names = set(imgpull.__all__)
    assert len(names) == len(imgpull.__all__)
    assert names >= set(errors.__all__)
    assert len(names - set(errors.__all__)) <= 25
    assert names - set(errors.__all__) == set(HOMES)
    assert names >= PROMISED


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_name_is_the_object_at_its_home(name: str) -> None:
    home = importlib.import_module(f"imgpull.{HOMES[name]}")
    assert getattr(imgpull, name) is getattr(home, name)
    assert name in getattr(home, "__all__", [name])
    assert name in dir(imgpull)


def test_type_checkers_see_the_same_names_from_the_same_homes() -> None:
    blocks = [node for node in tree(PACKAGE / "__init__.py").body if isinstance(node, ast.If)]
    assert [ast.unparse(block.test) for block in blocks] == ["TYPE_CHECKING"]
    seen = {
        alias.name: (node.module or "").removeprefix("imgpull.")
        for node in blocks[0].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == HOMES


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'imgpull' has no attribute 'Pullet'"):
        imgpull.Pullet  # noqa: B018 -- the attribute access is the test


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import imgpull") & HEAVY == set()


def test_a_lock_comes_without_network_and_database() -> None:
    loaded = loaded_by("import imgpull; imgpull.KeyedMutex")
    assert "imgpull.locking.keyed_mutex" in loaded
    assert loaded & HEAVY == set()


def test_the_package_ships_its_types() -> None:
    assert (PACKAGE / "py.typed").is_file()
