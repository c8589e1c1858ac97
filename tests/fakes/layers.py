"""Random layers, for tests that compare what a stack of them shows."""

from __future__ import annotations

import os
import random

from fakes.trees import Entry
from imgpull.store.snapshots.layer import Journal, TreePath

NAMES = ("a", "b", "c")
Model = dict[str, Entry]


def at(text: str) -> TreePath:
    return tuple(os.fsencode(part) for part in text.split("/")) if text else ()


def random_layer(chosen: random.Random) -> tuple[Model, Journal]:
    """A few entries with few names, so that layers meet, and what it takes away from those below."""
    entries: Model = {}
    places = [""]
    for _ in range(chosen.randrange(7)):
        directory = chosen.choice(places)
        name = f"{directory}/{chosen.choice(NAMES)}".lstrip("/")
        if name in entries:
            continue
        entries[name] = None if chosen.random() < 0.6 else os.urandom(4)
        if entries[name] is None:
            places.append(name)
    marks = Journal()
    for _ in range(chosen.randrange(4)):
        directory = at("/".join(chosen.choice(NAMES) for _ in range(chosen.randrange(3))))
        if chosen.random() < 0.3:
            marks.opaques.add(directory)
        else:
            marks.whiteout(directory, chosen.choice(NAMES).encode())
    # A journal speaks of directories; where this layer has a file there is nothing below it to hide.
    files = {at(name) for name, entry in entries.items() if entry is not None}
    marks.opaques = {path for path in marks.opaques if not _blocked(path, files)}
    marks.whiteouts = {path: found for path, found in marks.whiteouts.items() if not _blocked(path, files)}
    return entries, marks


def _blocked(path: TreePath, files: set[TreePath]) -> bool:
    return any(path[:end] in files for end in range(len(path) + 1))
