"""Layers applied one onto another in plain dictionaries: what the applier must equal, written to be obvious.

Whiteouts first (they mean lower layers whatever their order), then the entries one by one, in place, onto the parents'
tree. No disk, no journal, no descriptors; exact for the small trees of tests and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Path = tuple[str, ...]
DEFAULT_MODE = 0o755


class Refused(Exception):
    """The layer must be refused."""


class Paradox(Exception):
    """Whiteouts that hide the links which their own names lead through: no tree satisfies all of it."""


@dataclass(eq=False)
class Leaf:
    """A file, or a symbolic link where ``target`` is not None. One object is one inode."""

    content: str = ""
    target: str | None = None
    mode: int = 0o644


@dataclass(eq=False)
class Dir:
    mode: int = DEFAULT_MODE
    entries: dict[str, Dir | Leaf] = field(default_factory=dict)


class Item(NamedTuple):
    """One entry: kind ``f d s h w`` (whiteout) or ``o`` (opaque), and content, target or mode by kind."""

    kind: str
    name: str
    value: str | int = ""


def fresh(tree: Dir, seen: dict[int, Leaf] | None = None) -> Dir:
    """The same tree in new directories; leaves stay the objects they are."""
    return Dir(tree.mode, {name: fresh(at) if isinstance(at, Dir) else at for name, at in tree.entries.items()})


def split(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def find(tree: Dir, path: Sequence[str]) -> Dir | Leaf | None:
    at: Dir | Leaf | None = tree
    for part in path:
        at = at.entries.get(part) if isinstance(at, Dir) else None
    return at


def follow(tree: Dir, parts: Sequence[str]) -> Path:
    """Canonical path of a directory, links followed inside the root, missing parts taken by the letter."""
    pending, path, hops = list(reversed(parts)), [], 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del path[-1:]
            continue
        at = find(tree, [*path, part])
        if isinstance(at, Leaf) and at.target is not None:
            hops += 1
            if hops > 255:
                raise Refused("ELOOP")
            if at.target.startswith("/"):
                path = []
            pending.extend(reversed(at.target.split("/")))
        else:
            path.append(part)
    return tuple(path)


def directory(tree: Dir, path: Path) -> Dir:
    """The directory at a canonical path, made where there is none, in place of what is none."""
    at = tree
    for part in path:
        child = at.entries.get(part)
        if not isinstance(child, Dir):
            child = at.entries[part] = Dir()
        at = child
    return at


class Layer:
    """One layer over ``parent``; ``result`` is the tree it makes."""

    def __init__(self, parent: Dir, items: Sequence[Item]) -> None:
        self.parent = parent
        self.items = items
        marks: set[tuple[Path, str | None]] = set()
        for _ in range(4):
            self._run(marks)
            found = self._marks()
            if found == marks:
                break
            marks = found
        else:
            raise Paradox

    def _run(self, marks: set[tuple[Path, str | None]]) -> None:
        self.result = fresh(self.parent)
        self.before = fresh(self.parent)  # the same, as if no whiteout were there: for targets of hard links
        self.own: dict[Path, Dir | Leaf] = {}
        for path, name in marks:
            at = find(self.result, path)
            if isinstance(at, Dir):
                if name is None:
                    at.entries.clear()
                else:
                    at.entries.pop(name, None)
        for item in self.items:
            if item.kind not in "wo":
                self._entry(item)

    def _marks(self) -> set[tuple[Path, str | None]]:
        """What the whiteouts mean, by what this layer has in the end and else by the parents."""
        found: set[tuple[Path, str | None]] = set()
        for item in self.items:
            if item.kind in "wo":
                parts = split(item.name)
                where = self._lower(parts if item.kind == "o" else parts[:-1])
                if where is not None:
                    found.add((where, None if item.kind == "o" else parts[-1]))
        return found

    def _lower(self, parts: Sequence[str]) -> Path | None:
        pending, path, hops = list(reversed(parts)), [], 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del path[-1:]
                continue
            here = (*path, part)
            if here in self.own and not isinstance(self.own[here], Dir):
                return None
            at = find(self.parent, here)
            if here not in self.own and isinstance(at, Leaf) and at.target is not None:
                hops += 1
                if hops > 255:
                    return None
                if at.target.startswith("/"):
                    path = []
                pending.extend(reversed(at.target.split("/")))
                continue
            if here not in self.own and not isinstance(at, Dir):
                return None
            path.append(part)
        return tuple(path) if isinstance(find(self.parent, path), Dir) else None

    def _entry(self, item: Item) -> None:
        parts = split(item.name)
        parent = follow(self.result, parts[:-1])
        path = (*parent, parts[-1])
        if item.kind == "h":
            new: Dir | Leaf = self._target(str(item.value), path)
        elif item.kind == "d":
            at = find(self.result, path)
            new = at if isinstance(at, Dir) else Dir()
            new.mode = int(item.value)
        else:
            new = Leaf(content=str(item.value)) if item.kind == "f" else Leaf(target=str(item.value))
        for tree in (self.result, self.before):
            at = directory(tree, parent)
            if not isinstance(new, Dir):
                at.entries[parts[-1]] = new
            elif not isinstance(at.entries.get(parts[-1]), Dir):
                at.entries[parts[-1]] = new if tree is self.result else Dir()
        for end in range(1, len(path)):
            if not isinstance(self.own.get(path[:end]), Dir):
                self.own[path[:end]] = Dir()
        if not isinstance(new, Dir):
            self.own = {key: value for key, value in self.own.items() if key[: len(path)] != path}
        self.own[path] = new

    def _target(self, name: str, link: Path) -> Leaf:
        parts = split(name)
        path = (*follow(self.before, parts[:-1]), parts[-1])
        at = find(self.before, path)
        if not isinstance(at, Leaf) or path[: len(link)] == link or link[: len(path)] == path:
            raise Refused(f"hard link to {name}")
        return at


def apply(parent: Dir, items: Sequence[Item]) -> Dir:
    """The tree after one more layer. Raises Refused; ``parent`` is not changed."""
    return Layer(parent, items).result


def view(tree: Dir) -> dict[str, tuple[object, ...]]:
    """Name → (mode, content or target, first name of its link group)."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}

    def walk(at: Dir, prefix: str) -> None:
        for name, child in sorted(at.entries.items()):
            shown = prefix + name
            if isinstance(child, Dir):
                found[shown] = ("d", child.mode)
                walk(child, shown + "/")
            else:
                group = first.setdefault(id(child), shown)
                found[shown] = ("s", child.target, group) if child.target is not None else ("f", child.content, group)

    walk(copy.copy(tree), "")
    return found
