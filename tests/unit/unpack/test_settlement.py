"""A layer that is applied without its parents and settled upon them equals the same layer applied upon them."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from fakes.archives import LAYER, LIMITS, Chain, archive, pieces
from fakes.chains import TARGETS, random_entry
from fakes.trees import read_tree
from imgpull.errors import UnpackError
from imgpull.store.snapshots.layer import LayerTree, TreePath
from imgpull.unpack.applier import Applied, Applier
from imgpull.unpack.assumption import Assumption, Guess, Leading, Parents, link_target
from imgpull.unpack.tar import TarReader

CHAINS = 500


class Outcome:
    """What became of one layer: its tree and journal, or the kind of error it ended with."""

    def __init__(self, chain: Chain, root: Path, applied: Applied | UnpackError) -> None:
        self.applied = applied
        if isinstance(applied, UnpackError):
            self.facts: object = type(applied)
            return
        layer = LayerTree(root, applied.journal)
        counts = (applied.entries, applied.inodes, applied.size_bytes, applied.skipped)
        self.facts = (read_tree(root), applied.journal.to_json(), counts, _groups(chain, layer))


def _groups(chain: Chain, layer: LayerTree) -> list[tuple[TreePath, TreePath]]:
    """Which names are one inode, in all layers together."""
    chain.layers.append(layer)
    first: dict[tuple[int, int], TreePath] = {}
    try:
        with chain.merged() as tree:
            nodes = [node for node in tree.walk() if not node.is_directory]
            return [(node.path, first.setdefault((node.stat.st_dev, node.stat.st_ino), node.path)) for node in nodes]
    finally:
        chain.layers.pop()


_numbers = itertools.count()


def fill_and_settle(chain: Chain, tar: bytes, guess: Guess | None) -> Outcome | None:
    """Upon the chain; with a guess without it, and None where that does not hold."""
    root = chain.place / f"draft{next(_numbers)}"
    root.mkdir(mode=0o700)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with chain.merged() as lower:
            leading: Leading = Parents(lower) if guess is None else Assumption(guess)
            with Applier(root_fd, leading, privileged=os.geteuid() == 0, limits=LIMITS, layer=LAYER) as applier:
                refusal: UnpackError | None = None
                try:
                    applier.make(TarReader(pieces(tar), LIMITS, LAYER))
                except UnpackError as error:
                    refusal = error
                if not applier.holds(lower):
                    return None
                try:
                    return Outcome(chain, root, refusal or applier.settle(lower))
                except UnpackError as error:
                    return Outcome(chain, root, error)
    finally:
        os.close(root_fd)


def guesses(chain: Chain, chooser: random.Random) -> dict[str, Guess]:
    def true(path: TreePath) -> bytes | None:
        with chain.merged() as lower:
            return link_target(lower, path)

    def wild(path: TreePath) -> bytes | None:
        return chooser.choice((None, *map(os.fsencode, TARGETS)))

    return {"nothing": lambda _: None, "true": true, "wild": wild}


@pytest.mark.parametrize("batch", range(5))
def test_random_chains(batch: int, tmp_path: Path) -> None:
    """Each layer four ways: upon its parents, and without them, guessing nothing, the truth, and anything."""
    held: Counter[tuple[str, bool]] = Counter()
    for seed in range(batch * CHAINS // 5, (batch + 1) * CHAINS // 5):
        chooser = random.Random(seed)
        with tempfile.TemporaryDirectory(dir=tmp_path) as place:
            chain = Chain(Path(place))
            for number in range(4):
                entries = [random_entry(chooser, whiteouts=number > 0) for _ in range(chooser.randint(1, 9))]
                serial = fill_and_settle(chain, archive(*entries), None)
                assert serial is not None
                for name, guess in guesses(chain, chooser).items():
                    other = fill_and_settle(chain, archive(*entries), guess)
                    held[name, other is not None] += 1
                    assert other is None or other.facts == serial.facts, (seed, number, name)
                with suppress(UnpackError):  # then the next one lies upon what there is
                    chain.apply(*entries)
    print(held)
    # Each way was taken often enough to mean something, and to guess right helps.
    assert min(held["nothing", True], held["nothing", False], held["wild", True]) > 10
    assert held["true", False] < held["nothing", False]
