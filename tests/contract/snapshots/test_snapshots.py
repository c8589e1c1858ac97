"""The contract of a snapshotter, after containerd's ``core/snapshots/testsuite``: prepare, commit, stat."""

from __future__ import annotations

import os
import threading

import pytest

from fakes.snapshots import NOON, Opener, chain, commit, seen
from fakes.trees import write_tree
from imgpull.errors import AlreadyExistsError, SnapshotInUseError, SnapshotNotFoundError, StoreError
from imgpull.oci import EMPTY_CHAIN_ID
from imgpull.store.snapshots import Journal, SnapshotInfo, Snapshots


def test_basic(snapshots: Snapshots) -> None:
    first = snapshots.prepare("preparing")
    write_tree(first.path, {"foo": b"foo\n", "a/b/c": None})
    assert snapshots.commit(chain("one"), "preparing").parent is None
    with pytest.raises(SnapshotNotFoundError):
        snapshots.stat("preparing")

    second = snapshots.prepare("next", chain("one"))
    assert os.listdir(second.path) == []
    assert seen(snapshots, chain("one")) == {"foo": b"foo\n", "a": None, "a/b": None, "a/b/c": None}
    write_tree(second.path, {"bar": b"bar\n", "foo": b"bar\n"})
    journal = Journal()
    journal.whiteout((b"a",), b"b")
    assert snapshots.stat("next").parent == chain("one")
    snapshots.commit(chain("two"), "next", journal=journal)

    assert {info.name: info for info in snapshots.walk()} == {
        name: snapshots.stat(name) for name in (chain("one"), chain("two"))
    }
    assert seen(snapshots, chain("two")) == {"bar": b"bar\n", "foo": b"bar\n", "a": None}
    with pytest.raises(SnapshotInUseError, match="remove"):
        snapshots.remove(chain("one"))
    snapshots.remove(chain("two"))
    snapshots.remove(chain("one"))
    assert list(snapshots.walk()) == []


def test_stat_of_an_active_snapshot(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {})
    snapshots.prepare("key", chain("one"), labels={"a": "b"})
    assert snapshots.stat("key") == SnapshotInfo("key", "active", chain("one"), {"a": "b"}, NOON.isoformat())


def test_stat_of_a_committed_snapshot(snapshots: Snapshots) -> None:
    snapshots.prepare("key", labels={"a": "b", "c": "d"})
    given = snapshots.commit(chain("one"), "key", diff_id=chain("diff"), size_bytes=10, inodes=3, labels={"c": "e"})
    assert given == SnapshotInfo(
        chain("one"), "committed", None, {"a": "b", "c": "e"}, NOON.isoformat(), 10, 3, chain("diff")
    )
    assert snapshots.stat(chain("one")) == given


def test_transitivity(snapshots: Snapshots) -> None:
    commit(snapshots, "a", {"foo": b"foo"})
    commit(snapshots, "b", {"foo": b"foo bar"}, chain("a"))
    parent = snapshots.stat(chain("b")).parent
    assert parent == chain("a")
    assert snapshots.stat(parent).parent is None
    assert snapshots.chain(chain("b")) == (chain("a"), chain("b"))


def test_a_key_is_taken_once(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {})
    snapshots.prepare("key", chain("one"))
    with pytest.raises(AlreadyExistsError, match="taken") as caught:
        snapshots.prepare("key", chain("one"))
    assert caught.value.key == "key"
    with pytest.raises(AlreadyExistsError):
        snapshots.prepare(chain("one"))
    with pytest.raises(SnapshotNotFoundError):
        snapshots.view("key")


def test_a_key_whose_process_is_gone_is_still_taken(snapshots: Snapshots, opened: Opener) -> None:
    write_tree(snapshots.prepare("key").path, {"f": b"own work"})
    snapshots.close()
    other = opened()
    with pytest.raises(AlreadyExistsError, match="taken"):
        other.prepare("key")
    other.commit(chain("one"), "key")
    assert seen(other, chain("one")) == {"f": b"own work"}
    other.close()


def test_of_many_that_want_a_key_one_gets_it(snapshots: Snapshots) -> None:
    start = threading.Barrier(8)
    got: list[object] = []

    def want() -> None:
        start.wait()
        try:
            got.append(snapshots.prepare("key"))
        except AlreadyExistsError as error:
            got.append(error)

    threads = [threading.Thread(target=want, name=f"wants-{number}") for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(got) == 8
    assert sum(not isinstance(outcome, AlreadyExistsError) for outcome in got) == 1


def test_a_target_that_is_committed_need_not_be_prepared(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {})
    with pytest.raises(AlreadyExistsError) as caught:
        snapshots.prepare("key", target=chain("one"))
    assert caught.value.key == chain("one")
    assert [info.name for info in snapshots.walk()] == [chain("one")]


def test_an_unknown_parent(snapshots: Snapshots) -> None:
    for parent in (chain("none"), "no name at all", "sha256:../../etc"):
        with pytest.raises(SnapshotNotFoundError):
            snapshots.prepare("key", parent)
    assert list(snapshots.walk()) == []


def test_committing_twice_and_what_was_never_prepared(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {"f": b"first"})
    active = snapshots.prepare("key")
    write_tree(active.path, {"f": b"second"})
    with pytest.raises(AlreadyExistsError):
        snapshots.commit(chain("one"), "key")
    assert seen(snapshots, chain("one")) == {"f": b"first"}
    assert snapshots.stat("key").kind == "active"
    snapshots.remove("key")
    for key in ("key", "never", chain("one")):
        with pytest.raises(SnapshotNotFoundError):
            snapshots.commit(chain("two"), key)
    assert chain("two") not in snapshots


def test_a_name_committed_while_its_twin_was_synced(
    snapshots: Snapshots, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened()
    write_tree(snapshots.prepare("slow").path, {"who": b"slow"})
    write_tree(other.prepare("quick").path, {"who": b"quick"})

    def overtaken(self: object, fd: int) -> None:
        monkeypatch.undo()
        other.commit(chain("one"), "quick")

    monkeypatch.setattr("imgpull.store.durability.NoSync.filesystem", overtaken)
    with pytest.raises(AlreadyExistsError) as caught:
        snapshots.commit(chain("one"), "slow")
    assert caught.value.key == chain("one")
    assert seen(snapshots, chain("one")) == {"who": b"quick"}
    assert snapshots.stat("slow").kind == "active"
    other.close()


def test_a_name_that_is_committed_costs_no_sync(snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(snapshots, "one", {})
    snapshots.prepare("key")
    monkeypatch.setattr("imgpull.store.durability.NoSync.filesystem", lambda self, fd: pytest.fail("synced"))
    with pytest.raises(AlreadyExistsError):
        snapshots.commit(chain("one"), "key")


@pytest.mark.parametrize("name", ["latest", "sha256:../../x", f"sha256:{'A' * 64}", f"../sha256:{'a' * 64}", ""])
def test_a_name_that_is_no_chain_id_is_refused(snapshots: Snapshots, name: str) -> None:
    snapshots.prepare("key")
    assert name not in snapshots
    with pytest.raises(StoreError, match="can't name"):
        snapshots.commit(name, "key")
    assert snapshots.stat("key").kind == "active"


def test_of_many_that_commit_one_name_one_wins(snapshots: Snapshots) -> None:
    start = threading.Barrier(6)
    won: list[str] = []
    lost: list[str] = []

    def race(key: str) -> None:
        active = snapshots.prepare(key)
        write_tree(active.path, {"who": key.encode()})
        start.wait()
        try:
            snapshots.commit(chain("one"), key)
            won.append(key)
        except AlreadyExistsError:
            lost.append(key)
            snapshots.remove(key)

    threads = [threading.Thread(target=race, args=(f"key-{number}",), name=f"race-{number}") for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(won), len(lost)) == (1, 5)
    assert seen(snapshots, chain("one")) == {"who": won[0].encode()}
    assert [info.name for info in snapshots.walk()] == [chain("one")]


def test_rebase(snapshots: Snapshots) -> None:
    commit(snapshots, "one", {"a": b"1"})
    write_tree(snapshots.prepare("alone").path, {"b": b"2"})
    assert snapshots.commit(chain("two"), "alone", parent=chain("one")).parent == chain("one")
    assert seen(snapshots, chain("two")) == {"a": b"1", "b": b"2"}
    snapshots.prepare("on one", chain("one"))
    with pytest.raises(StoreError, match="was prepared on"):
        snapshots.commit(chain("three"), "on one", parent=chain("two"))
    with pytest.raises(SnapshotNotFoundError):
        snapshots.commit(chain("three"), snapshots.prepare("other").key, parent=chain("none"))


def test_the_image_without_layers(snapshots: Snapshots) -> None:
    snapshots.prepare("key", target=EMPTY_CHAIN_ID)
    snapshots.commit(EMPTY_CHAIN_ID, "key")
    assert EMPTY_CHAIN_ID in snapshots
    assert seen(snapshots, EMPTY_CHAIN_ID) == {}
