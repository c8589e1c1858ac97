"""One committed layer as it lies on disk: a plain tree, and a journal of what it takes away from the layers below.

Words
    *whiteout*  one name in one directory that is hidden from here down (image-spec layer.md, "Whiteouts").
    *opaque*    a directory whose contents in lower layers are hidden; its own entries in this layer are not.
    *path*      a tuple of byte components below the root, ``()`` for the root itself: ``(b"usr", b"lib")``. It is
                canonical: no component is empty, ``.`` or ``..``, and none holds a slash.

The markers stand in a journal and not in the tree, because overlay's own (character device 0:0, ``trusted.*``
attributes) need privileges and file systems that most containers lack.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from imgpull.errors import StoreCorruptError

__all__ = ["Journal", "LayerTree", "TreePath", "path_to_text", "text_to_path"]

TreePath = tuple[bytes, ...]

_EMPTY: frozenset[bytes] = frozenset()
_PERMISSIONS = 0o7777


def path_to_text(path: TreePath) -> str:
    """``usr/lib``; bytes that are no UTF-8 become lone surrogates, whatever the locale says (JSON escapes them)."""
    return b"/".join(path).decode("utf-8", "surrogateescape")


def text_to_path(text: str) -> TreePath:
    """The reverse of :func:`path_to_text`. Raises ValueError where the text is no canonical path."""
    if not text:
        return ()
    path = tuple(text.encode("utf-8", "surrogateescape").split(b"/"))
    if any(part in (b"", b".", b"..") or b"\0" in part for part in path):
        raise ValueError(f"not a canonical path: {text!r}")
    return path


@dataclass(slots=True)
class Journal:
    """What a layer hides, written while it is applied (by one thread) and kept in ``journal.json`` beside its tree.

    A whiteout hides the name in *lower* layers only, so it may stand beside an entry of the same name in this layer;
    for a directory that means the same as marking it opaque. Directories named here need not exist in this layer.
    """

    whiteouts: dict[TreePath, set[bytes]] = field(default_factory=dict)
    """Directory → names hidden in it."""
    opaques: set[TreePath] = field(default_factory=set)
    modes: dict[TreePath, int] = field(default_factory=dict)
    """Permission bits (``0o7777``) of entries that could not keep them on disk. An unprivileged process can neither
    look into its own directory of mode 000 nor read its own file of mode 000 (``/etc/shadow`` on Fedora), so it
    stores ``u+rx`` or ``u+r`` there and the true bits here; whoever reads through the merged view sees these."""

    def whiteout(self, directory: TreePath, name: bytes) -> None:
        """Hide ``name`` in ``directory``."""
        self.whiteouts.setdefault(directory, set()).add(name)

    def to_json(self) -> dict[str, object]:
        """The journal's part of ``journal.json``, in a fixed order."""
        return {
            "whiteouts": [
                [path_to_text(directory), sorted(path_to_text((name,)) for name in names)]
                for directory, names in sorted(self.whiteouts.items())
                if names
            ],
            "opaques": [path_to_text(directory) for directory in sorted(self.opaques)],
            "modes": [[path_to_text(path), mode] for path, mode in sorted(self.modes.items())],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, object], where: str) -> Journal:
        """Read :meth:`to_json`'s output back. Raises StoreCorruptError; ``where`` is the file's path."""
        journal = cls()
        try:
            for directory, names in _pairs(document["whiteouts"]):
                journal.whiteouts[text_to_path(directory)] = {_name(name) for name in _texts(names)}
            journal.opaques.update(text_to_path(directory) for directory in _texts(document["opaques"]))
            for path, mode in _pairs(document["modes"]):
                if not isinstance(mode, int) or not 0 <= mode <= _PERMISSIONS:
                    raise ValueError(f"not a mode: {mode!r}")
                journal.modes[text_to_path(path)] = mode
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorruptError(f"{where} is damaged ({error}): pull into a new store", path=where) from error
        return journal


def _texts(value: object) -> Iterator[str]:
    if not isinstance(value, list):
        raise TypeError(f"not a list: {value!r}")
    for item in value:
        if not isinstance(item, str):
            raise TypeError(f"not text: {item!r}")
        yield item


def _pairs(value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, list):
        raise TypeError(f"not a list: {value!r}")
    for item in value:
        first, second = item
        if not isinstance(first, str):
            raise TypeError(f"not text: {first!r}")
        yield first, second


def _name(text: str) -> bytes:
    path = text_to_path(text)
    if len(path) != 1:
        raise ValueError(f"not a name: {text!r}")
    return path[0]


class LayerTree:
    """A layer that no longer changes: where its tree lies, and its journal with fast answers. Holds no descriptor."""

    __slots__ = ("marked", "modes", "opaques", "root", "whiteouts")

    def __init__(self, root: str | os.PathLike[str], journal: Journal | None = None) -> None:
        journal = journal or Journal()
        self.root = os.fspath(root)
        """Absolute path of the layer's own tree (``…/fs``)."""
        self.whiteouts: Mapping[TreePath, frozenset[bytes]] = {
            directory: frozenset(names) for directory, names in journal.whiteouts.items() if names
        }
        self.opaques: frozenset[TreePath] = frozenset(journal.opaques)
        self.modes: Mapping[TreePath, int] = dict(journal.modes)
        self.marked: frozenset[TreePath] = _with_ancestors([*self.whiteouts, *self.opaques])
        """Every directory at or below which the journal says something, so that a reader which walks down knows
        whether a layer without that directory still matters there."""

    def hides(self, directory: TreePath, name: bytes) -> bool:
        """Whether this layer has a whiteout for ``name`` in ``directory``."""
        return name in self.whiteouts.get(directory, _EMPTY)

    def __repr__(self) -> str:
        return f"LayerTree({self.root!r})"


def _with_ancestors(paths: Iterable[TreePath]) -> frozenset[TreePath]:
    found: set[TreePath] = set()
    for path in paths:
        for end in range(len(path), -1, -1):
            if path[:end] in found:
                break
            found.add(path[:end])
    return frozenset(found)
