"""The contract of a snapshotter: whatever shows a snapshot shows the same, to the last attribute.

Compared are the merged view, the path of a view in its form (a mount or a tree of links), and a tree unpacked from it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.filesystems import mounts_below
from fakes.snapshots import ROOT, Kind, Opener, chain, commit, seen, walked
from fakes.trees import LONG_AGO, Entry, as_nobody, everything, place_of_nobody, read_tree, set_times, write_tree
from imgpull.errors import StoreError
from imgpull.store.database import Database
from imgpull.store.snapshots import Journal, Snapshots


def same_in_every_form(snapshots: Snapshots, name: str, target: Path) -> dict[str, tuple[object, ...]]:
    """What all of them show."""
    with snapshots.view(name) as rootfs:
        shown = walked(rootfs.tree)
        assert read_tree(rootfs.path) == shown
    snapshots.unpack(name, target)
    assert read_tree(target) == shown
    return shown


def attributes(number: int) -> Callable[[Path], None]:
    """Of every directory: an owner, a mode, a time and an attribute that tell its layer."""

    def give(tree: Path) -> None:
        set_times(tree)
        for directory in [path for path in (tree, *tree.rglob("*")) if path.is_dir()]:
            if ROOT:
                os.chown(directory, number, number + 1)
                for name in ("trusted.layer", "trusted.my.overlay.layer"):  # the second is no instruction to overlayfs
                    os.setxattr(directory, name, str(number).encode())
            os.chmod(directory, 0o2700 + number)
            os.utime(directory, ns=(LONG_AGO, LONG_AGO + 1000 * number))

    return give


def test_every_kind_of_entry_in_one_layer(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {}, change=everything)
    shown = same_in_every_form(snapshots, chain("1"), place / "target")
    assert shown["another"][-1] == shown["shared/one"][-1]
    assert {kind[0][0] for kind in shown.values() if isinstance(kind[0], str)} >= set("dlp-")


def test_every_kind_of_entry_below_a_layer_that_changes_some(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {}, change=everything)
    changed: dict[str, Entry] = {"bin/tool": None, "bin/tool/inner": b"1", "dead": b"no link", "etc": b"a file"}
    commit(snapshots, "2", changed, chain("1"), gone=("shared/one", "caf\udce9", "sparse"), change=set_times)
    shown = same_in_every_form(snapshots, chain("2"), place / "target")
    assert sorted(set(shown) - {"disk", "null"}) == [
        *("", "another", "bin", "bin/alias", "bin/tool", "bin/tool/inner", "dead", "empty", "etc", "shared"),
        *("shared/fifo", "shared/link", "shared/same-link"),
    ]


LOWER: dict[str, Entry] = {"a/b/c/f": b"1", "a/b/c/g": b"1", "a/x": b"1", "top": b"1", "caf\udce9/\u00e9": b"1"}


@pytest.mark.parametrize(
    ("own", "gone", "opaque", "left"),
    [
        ({}, ("a/b/c/f",), (), {"a/b/c/g", "a/x", "top", "caf\udce9/\u00e9"}),
        ({}, ("a/b",), (), {"a/x", "top", "caf\udce9/\u00e9"}),
        ({}, ("caf\udce9/\u00e9", "top"), (), {"a/b/c/f", "a/b/c/g", "a/x"}),
        ({"a/b": None}, ("a/b",), (), {"a/x", "top", "caf\udce9/\u00e9"}),
        ({"a/b/c/new": b"2"}, ("a/b",), (), {"a/b/c/new", "a/x", "top", "caf\udce9/\u00e9"}),
        ({"a/b/c/new": b"2"}, (), ("a/b/c",), {"a/b/c/new", "a/x", "top", "caf\udce9/\u00e9"}),
        ({"a/b/c/f": b"2"}, (), ("a",), {"a/b/c/f", "top", "caf\udce9/\u00e9"}),
        ({}, (), ("a/b",), {"a/x", "top", "caf\udce9/\u00e9"}),
        ({"a/b": b"2"}, (), (), {"a/b", "a/x", "top", "caf\udce9/\u00e9"}),
        ({"top/now": b"2"}, (), (), {"a/b/c/f", "a/b/c/g", "a/x", "top/now", "caf\udce9/\u00e9"}),
        ({"new": b"2"}, (), ("",), {"new"}),
    ],
)
def test_what_a_layer_hides_and_what_directories_are_then(
    snapshots: Snapshots,
    place: Path,
    own: dict[str, Entry],
    gone: tuple[str, ...],
    opaque: tuple[str, ...],
    left: set[str],
) -> None:
    commit(snapshots, "1", LOWER, change=attributes(1))
    commit(snapshots, "2", own, chain("1"), gone=gone, opaque=opaque, change=attributes(2))
    commit(snapshots, "3", {"a/third": b"3"}, chain("2"), change=attributes(3))
    shown = same_in_every_form(snapshots, chain("2"), place / "target")
    assert {name for name, entry in shown.items() if not str(entry[0]).startswith("d")} == left
    again = same_in_every_form(snapshots, chain("3"), place / "again")
    assert {name for name, entry in again.items() if not str(entry[0]).startswith("d")} == {*left, "a/third"}


def test_a_directory_gone_and_back_and_gone_again(snapshots: Snapshots, place: Path) -> None:
    commit(snapshots, "1", {"d/one": b"1", "d/e/one": b"1"}, change=attributes(1))
    commit(snapshots, "2", {}, chain("1"), gone=("d",), change=attributes(2))
    commit(snapshots, "3", {"d/e/three": b"3"}, chain("2"), change=attributes(3))
    commit(snapshots, "4", {"d": b"a file"}, chain("3"), change=attributes(4))
    commit(snapshots, "5", {"d/e/five": b"5"}, chain("4"), gone=("d",), change=attributes(5))
    wanted = [{"d/e/one", "d/one"}, set(), {"d/e/three"}, {"d"}, {"d/e/five"}]
    for number, names in enumerate(wanted, 1):
        shown = same_in_every_form(snapshots, chain(str(number)), place / str(number))
        assert {name for name, entry in shown.items() if not str(entry[0]).startswith("d")} == names


def test_hard_links_are_links_within_a_layer_only(snapshots: Snapshots, place: Path) -> None:
    def link(tree: Path) -> None:
        os.link(tree / "one", tree / "two")
        os.link(tree / "one", tree / "d/three")

    commit(snapshots, "1", {"one": b"1", "d": None}, change=link)
    commit(snapshots, "2", {"two": b"2"}, chain("1"), gone=("one",))
    shown = same_in_every_form(snapshots, chain("1"), place / "first")
    assert {shown[name][-1] for name in ("one", "two", "d/three")} == {"d/three"}
    shown = same_in_every_form(snapshots, chain("2"), place / "second")
    assert [shown[name][-1] for name in ("two", "d/three")] == ["two", "d/three"]


@pytest.mark.skipif(not ROOT, reason="only root can read it; a user's are in the last test")
def test_a_mode_that_the_disk_could_not_keep(snapshots: Snapshots, kind: Kind, place: Path) -> None:
    active = snapshots.prepare("key")
    write_tree(active.path, {"shadow": b"s", "no/f": b"0"})
    snapshots.commit(chain("1"), "key", journal=Journal(modes={(b"shadow",): 0, (b"no",): 0o1000}))
    if kind.mounts:
        # A mount would show the disk's.
        with snapshots.view(chain("1")) as rootfs, pytest.raises(StoreError, match="in any form asked for"):
            assert rootfs.path
        return
    shown = same_in_every_form(snapshots, chain("1"), place / "target")
    assert (shown["shadow"][0], shown["no"][0]) == ("----------", "d--------T")


@pytest.mark.parametrize("durable", [True, False])
def test_a_store_does_all_it_does_on_this_file_system(opened: Opener, place: Path, durable: bool) -> None:
    snapshots = opened(durable=durable)
    commit(snapshots, "1", {"f": b"1", "g": b"1"})
    commit(snapshots, "2", {"h": b"2"}, chain("1"), gone=("g",))
    assert seen(snapshots, chain("2")) == {"f": b"1", "h": b"2"}
    snapshots.unpack(chain("2"), place / "target")
    snapshots.remove(chain("2"))
    snapshots.remove(chain("1"))
    assert list(snapshots.walk()) == []
    snapshots.close()


def mounted_or_not() -> object:
    """How many mounts a view has by default, what it shows, and what is left of it."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        database = Database(place / "metadata.db", place / "metadata.lock", durability="none")
        snapshots = Snapshots(place / "snapshots", database, durable=False, read_only=False)
        commit(snapshots, "1", {"d/f": b"1", "d/gone": b"1"})
        commit(snapshots, "2", {"top": b"2"}, chain("1"), gone=("d/gone",))
        with snapshots.view(chain("2")) as rootfs:
            shown, mounts = sorted(read_tree(rootfs.path)), len(mounts_below(place))
        left = [*os.listdir(place / "snapshots/views"), *mounts_below(place)]
        snapshots.close()
        database.close()
    return [mounts, shown, left]


def become_root_of_a_namespace() -> None:
    """As ``unshare --user --map-root-user --mount`` does, for this process: it may mount then, but nothing else."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: changing the user took this process's own /proc away from it
    if libc.unshare(0x10000000 | 0x00020000) != 0:
        raise PermissionError("user namespaces are not to be had")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)


@pytest.fixture
def all_is_imported() -> None:
    """What is imported at first use may lie where the other user can't read."""
    mounted_or_not()


@pytest.mark.usefixtures("all_is_imported")
def test_in_a_user_namespace_of_its_own_an_ordinary_user_mounts() -> None:
    def act() -> object:
        try:
            become_root_of_a_namespace()
        except OSError as error:
            return str(error)
        return mounted_or_not()

    answer = as_nobody(act)
    if isinstance(answer, str):
        pytest.skip(answer)
    assert answer == [1, ["", "d", "d/f", "top"], []]


@pytest.mark.usefixtures("all_is_imported")
def test_an_ordinary_user_gets_a_tree() -> None:
    assert as_nobody(mounted_or_not) == [0, ["", "d", "d/f", "top"], []]


@pytest.mark.usefixtures("all_is_imported")
def test_a_user_without_privileges_sees_the_true_modes() -> None:
    def act() -> object:
        database = Database(place / "metadata.db", place / "metadata.lock", durability="none")
        snapshots = Snapshots(place / "snapshots", database, durable=False, read_only=False)
        lower: dict[str, Entry] = {"ro/d/f": b"0", "shadow": b"s", "no/f": b"0", "gone": b"0"}

        def lock_out(tree: Path) -> None:
            for name, mode in (("ro/d", 0o500), ("ro", 0o555), ("shadow", 0o400), ("no", 0o500), ("", 0o555)):
                os.chmod(tree / name, mode)

        active = snapshots.prepare("key")
        write_tree(active.path, lower)
        lock_out(active.path)
        modes = {(b"shadow",): 0, (b"no",): 0}
        snapshots.commit(chain("1"), "key", journal=Journal(modes=modes))
        commit(snapshots, "2", {"new": b"2"}, chain("1"), gone=("gone", "ro/d/f"))
        with snapshots.view(chain("2")) as rootfs:
            shown = sorted(str(path.relative_to(rootfs.path)) for path in rootfs.path.rglob("*"))
            names = ("", "ro", "ro/d", "shadow", "no")
            found = [oct(stat.S_IMODE(os.lstat(rootfs.path / name).st_mode)) for name in names]
            walked = [oct(rootfs.stat(name, follow_symlinks=False).st_mode & 0o7777) for name in names]
        left = os.listdir(place / "snapshots/views")
        for name in ("2", "1"):
            snapshots.remove(chain(name))
        snapshots.close()
        database.close()
        return [shown, found, walked, left]

    with place_of_nobody() as place:
        modes = ["0o755", "0o555", "0o500", "0o0", "0o0"]
        assert as_nobody(act) == [["new", "no", "ro", "ro/d", "shadow"], modes, modes, []]
