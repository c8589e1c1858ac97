"""``store.keyed_lock``: one per directory and process, whoever opened it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import scripts
from imgpull import KeyedMutex, Store, StoreError
from imgpull.locking import ProcessKeys

linux_only = pytest.mark.skipif("sys.platform != 'linux'", reason="the locks are Linux's")


@linux_only
def test_handles_on_one_directory_share_it_and_the_last_one_closes_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "store")
    with Store(tmp_path / "store") as store:
        with Store(tmp_path / "link") as same, Store(tmp_path / "other") as other:
            keys = same.keyed_lock
            assert isinstance(keys, ProcessKeys)
            assert keys is store.keyed_lock is not other.keyed_lock
        with keys.hold("a"):
            assert (tmp_path / "store/keys.lock").stat().st_size == 0
    with pytest.raises(StoreError, match="closed"):
        keys.hold("a").__enter__()
    with pytest.raises(StoreError, match="closed"):
        _ = store.keyed_lock


def test_a_store_that_is_read_only_has_the_keys_of_this_process(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with Store(tmp_path, read_only=True) as store, store.keyed_lock.hold("a"):
        assert isinstance(store.keyed_lock, KeyedMutex)
    assert not (tmp_path / "keys.lock").exists()


def test_on_another_system_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgpull.store.store.sys.platform", "darwin")
    with Store(tmp_path) as store:
        assert isinstance(store.keyed_lock, KeyedMutex)


@linux_only
def test_a_store_that_lost_its_database_but_for_the_lock_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "keys.lock").touch()
    Store(tmp_path).close()


@linux_only
def test_after_a_fork_the_child_has_keys_of_its_own_on_the_same_store(tmp_path: Path) -> None:
    source = """
        import os
        from imgpull import LockTimeoutError, Store
        with Store(sys.argv[1]) as store, store.keyed_lock.hold("a"):
            child = os.fork()
            if child == 0:
                with store.keyed_lock.hold("b", timeout_seconds=0):
                    try:
                        store.keyed_lock.hold("a", timeout_seconds=0).__enter__()
                    except LockTimeoutError:
                        print("the parent's", flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """
    assert scripts.run(source, tmp_path, options=("-W", "ignore")) == "the parent's\n"
