"""The merged view: every rule by itself, and all of them at once against a model that merges dictionaries."""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.layers import NAMES, Model, at, random_layer
from fakes.trees import Entry, open_descriptors, write_tree
from imgpull.store.snapshots.descriptors import Descriptors
from imgpull.store.snapshots.layer import Journal, LayerTree, TreePath
from imgpull.store.snapshots.merged import MergedTree
from imgpull.store.snapshots.removal import remove_tree


def journal(*, whiteouts: tuple[str, ...] = (), opaques: tuple[str, ...] = ()) -> Journal:
    made = Journal()
    for text in whiteouts:
        path = at(text)
        made.whiteout(path[:-1], path[-1])
    made.opaques.update(at(text) for text in opaques)
    return made


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    made = Layers(tmp_path)
    yield made
    made.close()


class Layers:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.layers: list[LayerTree] = []
        self.trees: list[MergedTree] = []

    def add(self, entries: dict[str, Entry], marks: Journal | None = None) -> None:
        tree = write_tree(self.root / str(len(self.layers)), entries)
        self.layers.append(LayerTree(tree, marks))

    def tree(self) -> MergedTree:
        self.trees.append(MergedTree(self.layers))
        return self.trees[-1]

    def close(self) -> None:
        for tree in self.trees:
            tree.close()


def content(tree: MergedTree, text: str) -> bytes:
    node = tree.lookup(at(text))
    assert node is not None, text
    with os.fdopen(node.open(), "rb") as file:
        return file.read()


def names(tree: MergedTree, text: str = "") -> list[str]:
    return [os.fsdecode(name) for name in tree.listdir(at(text))]


# -- the rules -------------------------------------------------------------------------------------------------------


def test_directories_merge_and_the_upper_file_wins(layers: Layers) -> None:
    layers.add({"etc/a": b"0", "etc/b": b"0"})
    layers.add({"etc/b": b"1", "etc/c": b"1"})
    tree = layers.tree()
    assert names(tree, "etc") == ["a", "b", "c"]
    assert [content(tree, f"etc/{name}") for name in "abc"] == [b"0", b"1", b"1"]
    nodes = tree.listdir(at("etc"))
    assert {name: node.layer for name, node in nodes.items()} == {b"a": 0, b"b": 1, b"c": 1}


def test_a_directory_has_the_attributes_of_the_topmost(layers: Layers) -> None:
    layers.add({"etc/a": b"0"})
    layers.add({"etc/b": b"1"})
    os.chmod(layers.root / "0/etc", 0o711)
    os.chmod(layers.root / "1/etc", 0o750)
    node = layers.tree().lookup(at("etc"))
    assert node is not None
    assert (node.permissions, node.layer) == (0o750, 1)


def test_a_whiteout_hides_a_file_below_and_not_above(layers: Layers) -> None:
    layers.add({"etc/a": b"0", "etc/b": b"0"})
    layers.add({"etc/c": b"1"}, journal(whiteouts=("etc/a",)))
    hidden = layers.tree()
    assert hidden.lookup(at("etc/a")) is None
    assert names(hidden, "etc") == ["b", "c"]
    layers.add({"etc/a": b"2"})
    assert content(layers.tree(), "etc/a") == b"2"


def test_a_whiteout_of_a_directory_hides_all_in_it_even_when_it_comes_again(layers: Layers) -> None:
    layers.add({"lib/hidden/deep": b"0"})
    layers.add({}, journal(whiteouts=("lib",)))
    layers.add({"lib/new": b"2"})
    tree = layers.tree()
    assert names(tree, "lib") == ["new"]
    assert tree.lookup(at("lib/hidden/deep")) is None


def test_a_whiteout_in_a_directory_the_layer_does_not_have(layers: Layers) -> None:
    layers.add({"a/b/c/x": b"0", "a/b/c/y": b"0"})
    layers.add({}, journal(whiteouts=("a/b/c/x",)))
    layers.add({"a/b/z": b"2"})
    tree = layers.tree()
    assert tree.lookup(at("a/b/c/x")) is None
    assert names(tree, "a/b/c") == ["y"]
    assert names(tree, "a/b") == ["c", "z"]


def test_a_whiteout_beside_a_directory_of_its_name_means_opaque(layers: Layers) -> None:
    layers.add({"d/old": b"0"})
    layers.add({"d/new": b"1"}, journal(whiteouts=("d",)))
    tree = layers.tree()
    assert names(tree, "d") == ["new"]
    assert tree.lookup(at("d/old")) is None


def test_a_whiteout_beside_a_file_of_its_name_keeps_the_file(layers: Layers) -> None:
    layers.add({"f": b"0"})
    layers.add({"f": b"1"}, journal(whiteouts=("f",)))
    assert content(layers.tree(), "f") == b"1"


def test_an_opaque_directory_hides_what_is_below_and_keeps_its_own(layers: Layers) -> None:
    layers.add({"d/old": b"0", "d/sub/old": b"0", "other": b"0"})
    layers.add({"d/new": b"1"}, journal(opaques=("d",)))
    layers.add({"d/sub/top": b"2"})
    tree = layers.tree()
    assert names(tree, "d") == ["new", "sub"]
    assert names(tree, "d/sub") == ["top"]
    assert names(tree) == ["d", "other"]


def test_an_opaque_mark_on_a_directory_the_layer_does_not_have(layers: Layers) -> None:
    layers.add({"d/old": b"0"})
    layers.add({}, journal(opaques=("d",)))
    tree = layers.tree()
    node = tree.lookup(at("d"))
    assert node is not None and node.is_directory
    assert names(tree, "d") == []
    assert tree.lookup(at("d/old")) is None


def test_an_opaque_root(layers: Layers) -> None:
    layers.add({"old": b"0"})
    layers.add({"new": b"1"}, journal(opaques=("",)))
    assert names(layers.tree()) == ["new"]


def test_a_file_hides_the_directory_below_and_a_directory_the_file(layers: Layers) -> None:
    layers.add({"x/in": b"0", "y": b"0"})
    layers.add({"x": b"1", "y/in": b"1"})
    tree = layers.tree()
    assert content(tree, "x") == b"1"
    assert tree.lookup(at("x/in")) is None
    assert names(tree, "y") == ["in"]


def test_a_file_between_two_directories_cuts_the_lower_one_off(layers: Layers) -> None:
    layers.add({"d/old": b"0"})
    layers.add({"d": b"1"})
    layers.add({"d/new": b"2"})
    assert names(layers.tree(), "d") == ["new"]


def test_a_symlink_is_not_followed_by_a_lookup(layers: Layers) -> None:
    layers.add({"usr/lib/x": b"0", "lib": "usr/lib"})
    tree = layers.tree()
    node = tree.lookup(at("lib"))
    assert node is not None and node.is_symlink
    assert node.readlink() == b"usr/lib"
    assert tree.lookup(at("lib/x")) is None


@pytest.mark.parametrize("path", [(b"..",), (b".",), (b"",), (b"a/b",), (b"..", b"etc"), (b"d", b"..", b"..")])
def test_a_path_that_is_not_canonical_is_refused(layers: Layers, path: TreePath) -> None:
    layers.add({"d/x": b"0"})
    with pytest.raises(ValueError, match="canonical"):
        layers.tree().lookup(path)


def test_a_name_too_long_is_the_kernels_error(layers: Layers) -> None:
    layers.add({})
    with pytest.raises(OSError, match="too long") as caught:
        layers.tree().lookup((b"x" * 256,))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_view_of_no_layers_is_empty() -> None:
    with MergedTree([]) as tree:
        assert tree.lookup(()) is None
        assert tree.lookup((b"etc",)) is None
        assert list(tree.walk()) == []
        with pytest.raises(FileNotFoundError):
            tree.listdir(())


def test_listing_what_is_no_directory(layers: Layers) -> None:
    layers.add({"f": b"0"})
    with pytest.raises(NotADirectoryError):
        layers.tree().listdir(at("f"))
    with pytest.raises(FileNotFoundError):
        layers.tree().listdir(at("none"))


def test_walk_gives_a_directory_before_what_is_in_it(layers: Layers) -> None:
    layers.add({"b/x": b"0", "a": b"0"})
    layers.add({"b/w/z": b"1"})
    assert [b"/".join(node.path) for node in layers.tree().walk()] == [b"", b"a", b"b", b"b/w", b"b/w/z", b"b/x"]


# -- resolving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("etc/passwd", "etc/passwd"),
        ("/etc//./passwd", "etc/passwd"),
        ("lib/x", "usr/lib/x"),
        ("abs/x", "usr/lib/x"),
        ("up/etc/passwd", "etc/passwd"),
        ("../../etc/passwd", "etc/passwd"),
        ("etc/../../../lib/..", "usr"),
        ("two/x", "usr/lib/x"),
        ("usr/back/etc", "etc"),
        ("escape", "etc/passwd"),
        ("", ""),
        ("..", ""),
    ],
)
def test_resolve_stays_inside(layers: Layers, path: str, target: str) -> None:
    layers.add({"etc/passwd": b"0", "usr/lib/x": b"0", "lib": "usr/lib", "escape": "../../../../etc/passwd"})
    layers.add({"abs": "/usr/lib", "up": "../../..", "two": "lib/../lib", "usr/back": "../."})
    assert layers.tree().resolve(path.encode().split(b"/")) == at(target)


def test_resolve_can_leave_the_last_link_alone(layers: Layers) -> None:
    layers.add({"usr/lib/x": "y", "lib": "usr/lib", "usr/lib/y": b"0"})
    tree = layers.tree()
    assert tree.resolve([b"lib", b"x"], follow_last=False) == at("usr/lib/x")
    assert tree.resolve([b"lib"], follow_last=False) == at("lib")
    # "lib/" names what the link leads to, as it does to lstat.
    assert tree.resolve([b"lib", b""], follow_last=False) == at("usr/lib")


def test_a_link_in_an_upper_layer_leads_through_the_merged_view(layers: Layers) -> None:
    layers.add({"real/x": b"0"})
    layers.add({"link": "real"})
    layers.add({"real/y": b"2"}, journal(whiteouts=("real/x",)))
    tree = layers.tree()
    assert tree.resolve([b"link", b"y"]) == at("real/y")
    with pytest.raises(FileNotFoundError):
        tree.resolve([b"link", b"x"])


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("none", FileNotFoundError),
        ("none/x", FileNotFoundError),
        ("none/..", FileNotFoundError),
        ("dead", FileNotFoundError),
        ("file/x", NotADirectoryError),
        ("file/", NotADirectoryError),
        ("file/..", NotADirectoryError),
        ("file/.", NotADirectoryError),
    ],
)
def test_resolve_fails_as_the_kernel_does(layers: Layers, path: str, error: type[OSError]) -> None:
    layers.add({"file": b"0", "dead": "/nowhere/at/all"})
    with pytest.raises(error):
        layers.tree().resolve(path.encode().split(b"/"))


@pytest.mark.parametrize("loop", [{"a": "b", "b": "a"}, {"a": "a"}, {"a": "a/a"}, {"a": "./b/..", "b": "a"}])
def test_a_loop_of_links_ends(layers: Layers, loop: dict[str, Entry]) -> None:
    layers.add(loop)
    with pytest.raises(OSError, match="symbolic links") as caught:
        layers.tree().resolve([b"a", b"x"])
    assert caught.value.errno == errno.ELOOP


def test_a_chain_of_255_links_is_followed_and_256_are_not(layers: Layers) -> None:
    layers.add({"0": b"end", **{str(number): str(number - 1) for number in range(1, 257)}})
    tree = layers.tree()
    assert tree.resolve([b"255"]) == at("0")
    with pytest.raises(OSError, match="symbolic links"):
        tree.resolve([b"256"])


# -- nodes -----------------------------------------------------------------------------------------------------------


def test_a_mode_the_disk_could_not_keep_comes_from_the_journal(layers: Layers) -> None:
    marks = Journal(modes={at("etc/shadow"): 0, at("locked"): 0o000})
    layers.add({"etc/shadow": b"secret", "locked/in": b"0"}, marks)
    when = 1_234_567_890_123_456_789
    os.utime(layers.root / "0/etc/shadow", ns=(when, when))
    tree = layers.tree()
    node = tree.lookup(at("etc/shadow"))
    plain = os.lstat(layers.root / "0/etc/shadow")
    assert node is not None
    assert node.lifted
    assert node.stat.st_mode == stat.S_IFREG
    assert node.stat[1:] == plain[1:]
    assert (node.stat.st_mtime_ns, node.stat.st_blocks) == (when, plain.st_blocks)
    locked = tree.lookup(at("locked"))
    assert locked is not None and locked.is_directory and locked.permissions == 0
    assert names(tree, "locked") == ["in"]


def test_opening_to_write_is_refused(layers: Layers) -> None:
    layers.add({"f": b"0"})
    node = layers.tree().lookup(at("f"))
    assert node is not None
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT):
        with pytest.raises(OSError, match="Read-only") as caught:
            node.open(flags)
        assert caught.value.errno == errno.EROFS
    assert (layers.root / "0/f").read_bytes() == b"0"


def test_opening_a_fifo_does_not_wait(layers: Layers) -> None:
    layers.add({})
    os.mkfifo(layers.root / "0/fifo")
    node = layers.tree().lookup(at("fifo"))
    assert node is not None
    os.close(node.open())


def test_opening_a_link_does_not_follow(layers: Layers) -> None:
    layers.add({"f": b"0", "link": "f"})
    node = layers.tree().lookup(at("link"))
    assert node is not None
    with pytest.raises(OSError, match="symbolic links"):
        node.open()


def test_xattrs_of_a_file_and_of_the_root(layers: Layers) -> None:
    layers.add({"f": b"0", "link": "f"})
    try:
        os.setxattr(layers.root / "0/f", "user.a", b"\0\xff")
        os.setxattr(layers.root / "0", "user.root", b"r")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    tree = layers.tree()
    file, link, root = tree.lookup(at("f")), tree.lookup(at("link")), tree.lookup(())
    assert file is not None and link is not None and root is not None
    assert file.xattrs()[b"user.a"] == b"\0\xff"
    assert b"user.a" not in link.xattrs()
    assert root.xattrs()[b"user.root"] == b"r"


def test_a_hard_link_made_of_a_node_is_the_very_inode(layers: Layers, tmp_path: Path) -> None:
    layers.add({"d/f": b"0"})
    node = layers.tree().lookup(at("d/f"))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert node is not None
        node.link_to(fd, b"linked")
    finally:
        os.close(fd)
    assert (tmp_path / "linked").samefile(layers.root / "0/d/f")


# -- descriptors -----------------------------------------------------------------------------------------------------


def test_everything_is_closed_and_stays_closed(layers: Layers) -> None:
    layers.add({"a/b/c/x": b"0"})
    layers.add({"a/b/d/y": b"1"})
    before = open_descriptors()
    tree = MergedTree(layers.layers)
    node = tree.lookup(at("a/b/c/x"))
    assert list(tree.walk())
    assert open_descriptors() > before
    tree.close()
    tree.close()
    assert open_descriptors() == before
    assert node is not None
    for use in (lambda: tree.lookup(at("a")), node.open, node.xattrs, lambda: tree.listdir(())):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert open_descriptors() == before


def test_few_descriptors_are_held_however_many_directories_and_layers(layers: Layers) -> None:
    for number in range(60):
        layers.add({f"shared/{number}/deep/x": b"0", "shared/file": str(number).encode()})
    tree = layers.tree()
    before = len(open_descriptors())
    found = [node for node in tree.walk() if node.is_regular]
    assert len(found) == 61
    assert len(open_descriptors()) - before <= 128
    assert content(tree, "shared/file") == b"59"
    assert content(tree, "shared/0/deep/x") == b"0"


def test_a_tree_deeper_than_the_descriptors_held(tmp_path: Path) -> None:
    depth = 40
    write_tree(tmp_path / "deep", {"/".join(["d"] * depth) + "/x": b"0"})
    descriptors = Descriptors([LayerTree(tmp_path / "deep")], limit=2)
    try:
        with descriptors.lock:
            fd = descriptors.get(0, (b"d",) * depth)
            assert os.listdir(fd) == ["x"]
            assert len(descriptors) == 2
    finally:
        descriptors.close()


def test_a_thousand_levels_and_names_that_no_path_could_hold(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    fd = os.open(tmp_path / "fs", os.O_RDONLY)
    name = b"n" * 200
    for _ in range(1_200):
        os.mkdir(name, dir_fd=fd)
        fd, outer = os.open(name, os.O_RDONLY, dir_fd=fd), fd
        os.close(outer)
    os.close(fd)
    try:
        with MergedTree([LayerTree(tmp_path / "fs")]) as tree:
            assert tree.lookup((name,) * 1_200) is not None
            assert tree.lookup((name,) * 1_201) is None
            assert sum(1 for _ in tree.walk()) == 1_201
    finally:
        remove_tree(tmp_path / "fs")


def test_descriptors_released_are_opened_again(layers: Layers) -> None:
    layers.add({"a/b/c/x": b"0"})
    before = open_descriptors()
    tree = layers.tree()
    assert content(tree, "a/b/c/x") == b"0" and open_descriptors() > before
    tree.release_descriptors()
    assert open_descriptors() == before
    assert content(tree, "a/b/c/x") == b"0"


@pytest.mark.parametrize("there", [0, 1, 300])
def test_to_look_for_each_prefix_of_a_name_costs_its_depth(layers: Layers, there: int) -> None:
    """As whoever leads a name does, one component after the other: some of them are there, the rest is missing."""
    layers.add({"/".join(["d"] * there) + "/x": b"0"} if there else {"x": b"0"})
    path, tree = at("/".join(["d"] * 600)), layers.tree()
    tree._directories = known = Counting()
    for end in range(1, len(path) + 1):
        assert (tree.lookup(path[:end]) is not None) is (end <= there)
    assert known.asked <= 3 * len(path)


class Counting(OrderedDict[TreePath, Any]):
    """What is asked of it is a path, which to compare takes its length."""

    asked = 0

    def __contains__(self, path: object) -> bool:
        self.asked += 1
        return super().__contains__(path)


def test_threads_share_a_tree(layers: Layers) -> None:
    for number in range(8):
        layers.add({f"d{part}/{number}": str(number).encode() for part in range(40)})
    tree = layers.tree()
    start = threading.Barrier(4)
    wrong: list[str] = []

    def read(seed: int) -> None:
        chosen = random.Random(seed)
        start.wait()
        for _ in range(300):
            part, number = chosen.randrange(40), chosen.randrange(8)
            if content(tree, f"d{part}/{number}") != str(number).encode():
                wrong.append(f"d{part}/{number}")

    threads = [threading.Thread(target=read, args=(seed,), name=f"reader-{seed}") for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert wrong == []


# -- all rules at once -----------------------------------------------------------------------------------------------


def merged_by_the_book(model: Model, entries: Model, marks: Journal) -> Model:
    """What the definition says: first everything this layer hides is removed below, then its entries are laid over."""
    result = dict(model)
    for directory in marks.opaques:
        prefix = "/".join(map(os.fsdecode, directory))
        result = {name: entry for name, entry in result.items() if not below(name, prefix)}
    for directory, hidden in marks.whiteouts.items():
        for name in hidden:
            gone = "/".join(map(os.fsdecode, (*directory, name)))
            result = {path: entry for path, entry in result.items() if path != gone and not below(path, gone)}
    for name, entry in sorted(entries.items()):
        if entry is not None or result.get(name, b"") is not None:
            result = {path: kept for path, kept in result.items() if path != name and not below(path, name)}
        result[name] = entry
    return result


def below(path: str, directory: str) -> bool:
    return not directory or path.startswith(f"{directory}/")


@pytest.mark.parametrize("seed", range(120))
def test_the_merged_view_is_what_the_definition_says(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    model: Model = {}
    layers: list[LayerTree] = []
    for number in range(chosen.randrange(1, 6)):
        entries, marks = random_layer(chosen)
        layers.append(LayerTree(write_tree(tmp_path / str(number), entries), marks))
        model = merged_by_the_book(model, entries, marks)
    with MergedTree(layers) as tree:
        seen = {"/".join(map(os.fsdecode, node.path)): node for node in tree.walk()}
        del seen[""]
        assert {name: node.is_directory for name, node in seen.items()} == {
            name: entry is None for name, entry in model.items()
        }
        for name, entry in model.items():
            assert entry is None or content(tree, name) == entry
        everything = {f"{one}/{two}".lstrip("/") for one in ("", *NAMES) for two in NAMES}
        for name in everything - set(model):
            assert tree.lookup(at(name)) is None
