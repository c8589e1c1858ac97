"""A layer that is applied without its parents and settled upon them equals the same layer applied upon them."""

from __future__ import annotations

import errno
import itertools
import os
import random
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from fakes.archives import LAYER, LIMITS, Chain, D, F, H, P, S, archive, pieces
from fakes.chains import TARGETS, random_entry
from fakes.trees import read_tree
from imgpull.errors import PullCancelledError, UnpackError
from imgpull.locking import Cancellation
from imgpull.store.snapshots.layer import LayerTree, TreePath
from imgpull.store.snapshots.node import Node
from imgpull.unpack import assumption, links
from imgpull.unpack.applier import Applied, Applier
from imgpull.unpack.assumption import AssumedLinks, Guess, KnownLinks, LowerLinks, link_target
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
            lower_links: LowerLinks = KnownLinks(lower) if guess is None else AssumedLinks(guess)
            with Applier(root_fd, lower_links, privileged=os.geteuid() == 0, limits=LIMITS, layer=LAYER) as applier:
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


BASE = [D("a"), F("a/f", b"1"), H("a/g", "a/f"), P("a/p"), S("a/s", "f"), D("usr/lib"), S("lib", "usr/lib")]
LINKS = {
    "down": [H("x", "a/f")],
    "a link of a link": [H("x", "a/f"), H("y", "x"), H("z", "y")],
    "the first of two is replaced": [H("x", "a/f"), H("y", "x"), F("x", b"2")],
    "all are replaced": [H("x", "a/f"), D("x"), F("x/y", b"2")],
    "the target is replaced": [H("x", "a/f"), F("a/f", b"2")],
    "the target is hidden": [F("a/.wh.f"), H("x", "a/f")],
    "a directory gives way": [F("x/y", b"2"), H("x", "a/f"), H("y", "x")],
    "a directory comes in its place": [H("x", "a/f"), F("x/y", b"2")],
    "a FIFO": [H("x", "a/p"), H("y", "x")],
    "twice": [H("x", "a/f"), H("x", "a/g"), H("z", "a/f")],
}
AGAIN = {
    "to a symbolic link": [H("x", "a/s")],
    "through one": [H("x", "lib/f"), F("usr/lib/f")],
    "to nothing": [H("x", "q")],
}


@pytest.mark.parametrize("name", LINKS)
def test_hard_links_to_what_is_not_there_yet(chain: Chain, name: str) -> None:
    chain.apply(*BASE)
    serial = fill_and_settle(chain, archive(*LINKS[name]), None)
    settled = fill_and_settle(chain, archive(*LINKS[name]), lambda _: None)
    assert serial and settled and not isinstance(serial.applied, UnpackError)
    assert settled.facts == serial.facts


@pytest.mark.parametrize("name", AGAIN)
def test_hard_links_that_are_not_settled(chain: Chain, name: str) -> None:
    chain.apply(*BASE)
    assert fill_and_settle(chain, archive(*AGAIN[name]), lambda _: None) is None


def test_copies_are_settled_as_one_inode(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "no link from there")

    chain.apply(*BASE)
    monkeypatch.setattr(Node, "link_to", refuse)
    entries = [H("x", "a/f"), H("y", "x"), F("x", b"2"), H("z", "a/f")]
    serial = fill_and_settle(chain, archive(*entries), None)
    settled = fill_and_settle(chain, archive(*entries), lambda _: None)
    assert serial and settled and settled.facts == serial.facts
    assert not isinstance(serial.applied, UnpackError) and serial.applied.inodes == 4  # root, a, x, and the copy


def test_a_layer_that_assumes_too_much_is_applied_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assumption, "_REMEMBERED_BYTES", 1000)
    assert fill_and_settle(chain, archive(F("a/x"), F("b/x")), lambda _: None) is not None
    assert fill_and_settle(chain, archive(*[F(f"{n}/x") for n in range(20)]), lambda _: None) is None
    assert fill_and_settle(chain, archive(F("/".join(c * 200 for c in "nmo") + "/x")), lambda _: None) is None
    assert fill_and_settle(chain, archive(F("a/x")), lambda path: b"l" * 1000 if len(path) == 1 else None) is None


def test_a_layer_whose_links_may_be_too_many_is_applied_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upon its parents each of them is a link for a while, though another entry takes its place later."""
    monkeypatch.setattr(links, "_MOST_STAND_INS", 4)
    chain.apply(*BASE)  # a/f has two names
    two = [H("x", "a/f"), H("y", "x")]
    assert fill_and_settle(chain, archive(*two, F("x"), F("y")), lambda _: None) is not None
    assert fill_and_settle(chain, archive(*two, F("x"), F("y"), H("z", "a/f")), lambda _: None) is None


@pytest.mark.parametrize("name", ["z/x", "a/f"])
def test_an_error_at_the_end_names_its_entry(chain: Chain, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(node: Node, fd: int, link: bytes) -> None:
        if link == os.path.basename(name).encode():
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(node, fd, link)

    chain.apply(*BASE)
    real = Node.link_to
    monkeypatch.setattr(Node, "link_to", refuse)
    settled = fill_and_settle(chain, archive(H("z/x", "a/f")), lambda _: None)
    assert settled and isinstance(settled.applied, UnpackError) and settled.applied.entry == name


class After(Cancellation):
    """Cancelled when it was asked a number of times."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.left = asked

    def raise_if_cancelled(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.cancel()
        super().raise_if_cancelled()


def test_cancelled_at_every_step(chain: Chain) -> None:
    """In each loop over entries, answers, links, marks and directories."""
    chain.apply(*BASE)
    entries = [F("d/x"), H("x", "a/f"), F("usr/.wh.lib"), F("a/.wh..wh..opq")]
    ended: Counter[str] = Counter()
    asked = 0
    while not ended["settle"] or ended["done"] == 0:
        ended[_cancelled_in(chain, archive(*entries), After(asked))] += 1
        asked += 1
    # Four entries; d, a and the link's target; a link, two marks, two names of its group, and two directories.
    assert ended == {"make": 4, "holds": 3, "settle": 7, "done": 1}


def _cancelled_in(chain: Chain, tar: bytes, cancel: Cancellation) -> str:
    root = chain.place / f"draft{next(_numbers)}"
    root.mkdir(mode=0o700)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    step = "make"
    try:
        with (
            chain.merged() as lower,
            Applier(
                root_fd, AssumedLinks(lambda _: None), privileged=False, limits=LIMITS, layer=LAYER, cancel=cancel
            ) as applier,
        ):
            applier.make(TarReader(pieces(tar), LIMITS, LAYER))
            step = "holds"
            assert applier.holds(lower)
            step = "settle"
            applier.settle(lower)
    except PullCancelledError:
        return step
    finally:
        os.close(root_fd)
    return "done"


@pytest.mark.parametrize("batch", range(5))
def test_random_chains(batch: int, tmp_path: Path) -> None:
    """Each layer four apply_modes: upon its parents, and without them, guessing nothing, the truth, and anything."""
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
    # Each way was taken often enough to mean something, and to guess right helps.
    assert min(held["nothing", True], held["nothing", False], held["wild", True]) > 10
    assert held["true", False] < held["nothing", False]
