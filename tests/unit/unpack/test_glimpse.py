"""What is seen of layers that are still being applied: when one waits, when one looks anew, and what is left open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.trees import open_descriptors, write_tree
from imgpull.errors import PullCancelledError, SnapshotNotFoundError
from imgpull.store.snapshots import LayerTree, TreePath
from imgpull.unpack.glimpse import Glimpse


class Below:
    """Layers below that move when they are told to."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.layers: list[LayerTree] = []
        self.moves = 0
        self.asked: list[TreePath] = []
        self.waits: Callable[[Callable[[], bool]], bool] = lambda _there: False
        self.looks = 0

    def add(self, name: str, target: str = "usr/lib") -> Path:
        root = write_tree(self.place / name, {"usr/lib/x": b""})
        (root / "lib").symlink_to(target)
        self.layers.append(LayerTree(root))
        self.moves += 1
        return root

    def wait(self, path: TreePath, there: Callable[[], bool]) -> bool:
        self.asked.append(path)
        return self.waits(there)

    def look(self) -> list[LayerTree]:
        self.looks += 1
        return self.layers

    def glimpse(self) -> Glimpse:
        return Glimpse(self.wait, self.look, lambda: self.moves)


@pytest.fixture
def below(tmp_path: Path) -> Below:
    return Below(tmp_path)


def test_nothing_is_opened_before_the_first_question(below: Below) -> None:
    before = open_descriptors()
    below.add("one")
    glimpse = below.glimpse()
    assert (below.asked, below.looks, open_descriptors()) == ([], 0, before)
    assert glimpse.link_target((b"lib",)) == b"usr/lib"
    assert glimpse.link_target((b"usr",)) is None
    assert (below.asked, below.looks) == ([(b"lib",), (b"usr",)], 1)
    assert open_descriptors() > before
    glimpse.close()
    assert open_descriptors() == before
    assert glimpse.link_target((b"lib",)) == b"usr/lib"
    glimpse.close()
    assert open_descriptors() == before


def test_what_moves_is_looked_for_again(below: Below, tmp_path: Path) -> None:
    glimpse = below.glimpse()
    assert glimpse.link_target((b"lib",)) is None
    root = below.add("one")
    assert glimpse.link_target((b"lib",)) == b"usr/lib"
    below.layers[:] = [LayerTree(root.rename(tmp_path / "committed"))]
    below.moves += 1
    assert glimpse.link_target((b"lib",)) == b"usr/lib"
    below.add("two", "elsewhere")
    assert glimpse.link_target((b"lib",)) == b"elsewhere"
    assert below.looks == 4
    glimpse.close()


def test_a_directory_that_came_since_is_seen_with_the_next_move(below: Below) -> None:
    root = below.add("one")
    glimpse = below.glimpse()
    assert glimpse.link_target((b"d", b"link")) is None
    write_tree(root / "d", {})
    (root / "d/link").symlink_to("there")
    below.moves += 1
    assert glimpse.link_target((b"d", b"link")) == b"there"
    glimpse.close()


def test_what_came_while_it_waited_is_seen(below: Below) -> None:
    root = below.add("one")
    looked: list[bool] = []

    def wait(there: Callable[[], bool]) -> bool:
        looked.append(there())
        (root / "d/e").mkdir(parents=True)
        looked.append(there())
        (root / "d/e/link").symlink_to("there")
        return True

    glimpse = below.glimpse()
    assert glimpse.link_target((b"d", b"e", b"link")) is None  # now it is remembered that there is no d/e
    below.waits = wait
    assert glimpse.link_target((b"d", b"e")) is None
    assert looked == [False, True]
    below.waits = lambda _there: False
    assert glimpse.link_target((b"d", b"e", b"link")) == b"there"
    glimpse.close()


def test_what_moves_just_now_is_not_seen(below: Below, tmp_path: Path) -> None:
    root = below.add("one")
    glimpse = below.glimpse()
    root.rename(tmp_path / "committed")  # and nobody has said so yet
    assert glimpse.link_target((b"lib",)) is None
    glimpse.close()


def test_a_layer_that_went_is_not_seen(below: Below) -> None:
    def gone() -> list[LayerTree]:
        raise SnapshotNotFoundError("it went")

    glimpse = Glimpse(below.wait, gone, lambda: 0)
    assert glimpse.link_target((b"lib",)) is None


def test_what_the_wait_raises_is_raised(below: Below) -> None:
    def cancelled(_path: TreePath, _there: Callable[[], bool]) -> bool:
        raise PullCancelledError("cancelled by the caller")

    with pytest.raises(PullCancelledError):
        Glimpse(cancelled, below.look, lambda: 0).link_target((b"lib",))
    assert below.looks == 0
