"""House rules that can be counted: a module fits in a sitting, a function on a screen, and one idea has one word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.source import BENCHMARKS, PACKAGE, modules, name_of, tree

MODULE_LINES = 400
FUNCTION_LINES = 50

FORBIDDEN = {
    "hash": "digest, diff_id or chain_id",
    "download": "fetch",
    "cache": "store, content or blob",
    "job": "flight, transfer or call",
    "extract": "unpack or apply",
    "util": "the name of what it does",
    "helper": "the name of what it does",
    "manager": "the name of what it does",
}
"""Word, and what to say instead. Only names we give are looked at, not those of libraries that we use."""

ALLOWED = {
    ("imgpull.registry.credentials", "helper"): "docker's word for a program that keeps credentials",
    ("imgpull.registry.helper", "helper"): "docker's word for a program that keeps credentials",
    ("benchmarks.volume", "cache"): "the kernel's /proc/sys/vm/drop_caches",
}
"""Where a module keeps a forbidden word, and why: it is somebody else's name for somebody else's thing."""

MODULES = [*modules(PACKAGE), *modules(BENCHMARKS)]


def long_functions(source: ast.Module) -> list[str]:
    return [
        f"{node.name}, line {node.lineno}: {length} lines"
        for node in ast.walk(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]


def given_names(source: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything the module names: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(source):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(name)):
                yield 0, name


def words(name: str) -> set[str]:
    """``HTTPBlobReader`` and ``http_blob_readers`` are {http, blob, reader}."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    lower = {part.lower() for part in parts}
    return lower | {word.removesuffix("s") for word in lower} | {word.removesuffix("es") for word in lower}


def forbidden(name: str) -> list[str]:
    if name.startswith("__") and name.endswith("__"):  # Python's protocols: __hash__
        return []
    return [word for word in FORBIDDEN if word in words(name)]


def misnamed(module: str, source: ast.Module) -> list[str]:
    """The names with a forbidden word, that of the module included."""
    names = [(0, module.rpartition(".")[2]), *given_names(source)]
    return [
        f"line {line}: {name}: not {word!r} but {FORBIDDEN[word]}"
        for line, name in names
        for word in forbidden(name)
        if (module, word) not in ALLOWED
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sizes(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    assert long_functions(tree(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_word_for_one_idea(path: Path) -> None:
    assert misnamed(name_of(path), tree(path)) == []


@pytest.mark.parametrize(("module", "word"), ALLOWED)
def test_an_allowance_is_used(module: str, word: str) -> None:
    path = next(path for path in MODULES if name_of(path) == module)
    assert any(word in forbidden(name) for _, name in given_names(tree(path)))


class TestItWouldBeSeen:
    def test_a_long_function(self) -> None:
        body = "    pass\n" * FUNCTION_LINES
        assert long_functions(ast.parse(f"def f():\n{body}")) == ["f, line 1: 51 lines"]
        assert long_functions(ast.parse(f"class C:\n  async def f(self):\n{body}")) == ["f, line 2: 51 lines"]

    @pytest.mark.parametrize(
        "line",
        [
            "def blob_hash(): ...",
            "class SnapshotManager: ...",
            "def f(*, cache): ...",
            "jobs = []",
            "self.download_bytes = 1",
            "import x as utils",
            "for hashes in x: ...",
            "with f() as extract: ...",
        ],
    )
    def test_a_forbidden_word(self, line: str) -> None:
        assert len(misnamed("imgpull.oci", ast.parse(line))) == 1

    def test_a_forbidden_module(self) -> None:
        assert len(misnamed("imgpull.oci.utils", ast.parse(""))) == 1

    @pytest.mark.parametrize(
        "line",
        [
            "def __hash__(self): ...",
            "hasher = hash(x)",
            "functools.cache(f)",
            "from x import cache",
            "diff_id = x.extract()",
        ],
    )
    def test_a_name_of_somebody_else(self, line: str) -> None:
        assert misnamed("imgpull.oci", ast.parse(line)) == []
