"""Random chains of layers against the model that applies them in place: same tree, same refusals, in every order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from fakes.archives import Chain, D, F, H, S
from fakes.serial_model import Dir, Item, Paradox, Refused, apply, view
from imgpull.errors import UnpackError

NAMES = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
TARGETS = st.sampled_from(["a", "b", "/c", "..", "../a", "/a/b", "b/c", "../../c", "dne/../a", ".", "/", "c/../../b"])
ITEMS = st.one_of(
    st.builds(Item, st.just("f"), NAMES, st.sampled_from(["1", "22", "333"])),
    st.builds(Item, st.just("d"), NAMES, st.sampled_from([0o700, 0o755, 0o2775])),
    st.builds(Item, st.just("s"), NAMES, TARGETS),
    st.builds(Item, st.just("h"), NAMES, NAMES),
    st.builds(Item, st.just("w"), NAMES),
    st.builds(Item, st.just("o"), NAMES | st.just("")),
)
BASES = st.lists(ITEMS.filter(lambda item: item.kind not in "wo"), max_size=8)
LAYERS = st.lists(ITEMS, max_size=7)


def encode(item: Item) -> bytes:
    if item.kind == "f":
        return F(item.name, str(item.value).encode())
    if item.kind == "d":
        return D(item.name, int(item.value))
    if item.kind in "sh":
        return (S if item.kind == "s" else H)(item.name, str(item.value))
    if item.kind == "o":
        return F(f"{item.name}/.wh..wh..opq".lstrip("/"))
    parent, _, name = item.name.rpartition("/")
    return F(f"{parent}/.wh.{name}".lstrip("/"))


def merged_view(chain: Chain) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    with chain.merged() as tree:
        for node in tree.walk():
            if not node.path:
                continue
            shown = os.fsdecode(b"/".join(node.path))
            if node.is_directory:
                found[shown] = ("d", node.permissions)
                continue
            group = first.setdefault(node.stat.st_ino, shown)
            if node.is_symlink:
                found[shown] = ("s", os.fsdecode(node.readlink()), group)
            else:
                with os.fdopen(node.open(), "r") as file:
                    found[shown] = ("f", file.read(), group)
    return found


def check(layers: Sequence[Sequence[Item]]) -> None:
    expected = Dir()
    with tempfile.TemporaryDirectory() as place:
        chain = Chain(Path(place))
        for items in layers:
            entries = [encode(item) for item in items]
            try:
                after = apply(expected, items)
            except Paradox:
                return
            except Refused:
                after = None
            try:
                chain.apply(*entries)
            except UnpackError:
                # A loop is refused when it is met, though a later whiteout of the same layer may hide it.
                assert after is None or any(item.kind in "wo" for item in items)
                return
            if after is None:
                assert any(item.kind in "wo" for item in items), "accepted what must be refused"
                return
            expected = after
            assert merged_view(chain) == view(expected)


@given(BASES, LAYERS)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@example([Item("s", "a", "b/c")], [Item("f", "a/x", "1"), Item("w", "a")])
@example([Item("s", "a", "b/c")], [Item("w", "a"), Item("f", "a/x", "1")])
@example([Item("f", "a/b", "1")], [Item("h", "c", "a/b"), Item("w", "a/b")])
@example([Item("f", "a/b", "1")], [Item("f", "a", "1"), Item("d", "a", 0o700)])
def test_one_layer_over_another(base: list[Item], layer: list[Item]) -> None:
    check([base, layer])


@given(BASES, LAYERS, LAYERS, LAYERS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_chains_of_four(base: list[Item], first: list[Item], second: list[Item], third: list[Item]) -> None:
    check([base, first, second, third])


@given(BASES, LAYERS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_where_whiteouts_stand_does_not_matter(base: list[Item], layer: list[Item], chooser: object) -> None:
    entries = [item for item in layer if item.kind not in "wo"]
    markers = [item for item in layer if item.kind in "wo"]
    assume(markers)
    other = list(entries)
    for marker in markers:
        other.insert(chooser.randrange(len(other) + 1), marker)  # type: ignore[attr-defined]
    results = []
    with tempfile.TemporaryDirectory() as place:
        for index, items in enumerate((layer, other)):
            (Path(place) / str(index)).mkdir()
            chain = Chain(Path(place) / str(index))
            try:
                chain.apply(*map(encode, base))
                chain.apply(*map(encode, items))
            except UnpackError as error:
                assume("symbolic links" not in str(error))  # a loop, see check()
                results.append(type(error))
            else:
                results.append((merged_view(chain), chain.layers[-1].whiteouts, chain.layers[-1].opaques))
    assert results[0] == results[1]
