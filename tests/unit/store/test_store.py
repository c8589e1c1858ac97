"""The handle: what is shared, what is refused, how it opens and ends."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from fakes import scripts
from fakes.threads import together
from imgpull.errors import RefLockedError, StoreCorruptError, StoreError
from imgpull.oci import Digest
from imgpull.store import ContentStore, Store, default_root
from imgpull.store.core import Core
from imgpull.store.layout import Layout

DATA = b"some content"
DIGEST = Digest.of_bytes(DATA)


def _put(store: Store, data: bytes = DATA) -> Digest:
    with store.content.writer(f"ref of {data!r}") as writer:
        writer.write(data)
        return writer.commit().digest


def _core(store: Store) -> Core:
    return store._live().core


class TestOpening:
    def test_what_it_makes(self, tmp_path: Path) -> None:
        with Store(tmp_path / "a" / "b" / "store"):
            pass
        root = tmp_path / "a" / "b" / "store"
        assert sorted(os.listdir(root)) == [
            "blobs",
            "index.json",
            "index.lock",
            "ingest",
            "metadata.db",
            "metadata.lock",
            "oci-layout",
            "snapshots",
        ]
        assert (root / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'

    @pytest.mark.parametrize(
        "umask",
        [
            0o000,
            0o022,
            pytest.param(
                0o777,
                marks=pytest.mark.skipif(
                    os.geteuid() != 0, reason="only root can work below a directory it may not enter"
                ),
            ),
        ],
    )
    def test_its_directories_are_private_whatever_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            with Store(tmp_path / "store"):
                pass
        finally:
            os.umask(before)
        for directory, _, _ in os.walk(tmp_path / "store"):
            assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700, directory

    def test_an_empty_directory_becomes_a_store_and_private(self, tmp_path: Path) -> None:
        (tmp_path / "store" / "lost+found").mkdir(parents=True)
        (tmp_path / "store").chmod(0o755)
        with Store(tmp_path / "store"):
            assert stat.S_IMODE(os.stat(tmp_path / "store").st_mode) == 0o700

    def test_a_directory_with_other_files_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "letters").mkdir()
        tmp_path.chmod(0o755)
        with pytest.raises(StoreError, match=r"holds other files \(letters"):
            Store(tmp_path)
        assert os.listdir(tmp_path) == ["letters"]
        assert stat.S_IMODE(os.stat(tmp_path).st_mode) == 0o755

    @pytest.mark.parametrize("lost", ["an index only", "the whole database"])
    def test_a_layout_without_its_database_is_not_emptied(self, tmp_path: Path, lost: str) -> None:
        if lost == "an index only":
            (tmp_path / "index.json").write_text('{"manifests": [1]}')
        else:
            Store(tmp_path).close()
            (tmp_path / "metadata.db").unlink()
        index = (tmp_path / "index.json").read_bytes()
        with pytest.raises(StoreError, match="imgpull load"):
            Store(tmp_path)
        assert (tmp_path / "index.json").read_bytes() == index

    def test_a_network_file_system_is_refused_with_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("imgpull.store.filesystem.filesystem_magic", lambda path: 0x6969)
        for read_only in (False, True):
            (tmp_path / "store").mkdir(exist_ok=True)
            with pytest.raises(StoreError, match="NFS.*IMGPULL_HOME"):
                Store(tmp_path / "store", read_only=read_only)
        assert os.listdir(tmp_path / "store") == []

    @pytest.mark.parametrize("place", ["a file", "below a file"])
    def test_where_no_directory_can_be(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="cannot open the store"):
            Store(tmp_path / "file" / "store" if place == "below a file" else tmp_path / "file")

    def test_an_unknown_durability(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="'full' or 'none'"):
            Store(tmp_path, durability="some")  # type: ignore[arg-type]

    def test_a_failed_opening_leaves_nothing_open_and_may_be_tried_again(self, tmp_path: Path) -> None:
        root = tmp_path / "store"
        Store(root).close()
        good = (root / "metadata.db").read_bytes()
        (root / "metadata.db").write_bytes(b"damaged " * 1000)
        for _ in range(2):
            with pytest.raises(StoreCorruptError):
                Store(root)
        (root / "metadata.db").write_bytes(good)
        Store(root).close()

    def test_in_eight_threads_and_four_processes_at_once(self, tmp_path: Path) -> None:
        source = """
            from imgpull.store import Store
            print("ready", flush=True); input()
            with Store(sys.argv[1]) as store, store.content.writer(sys.argv[2]) as writer:
                writer.write(sys.argv[2].encode())
                writer.commit()
        """
        scripts.run_together(4, source, tmp_path / "store")
        stores = together([lambda: Store(tmp_path / "store")] * 8)
        cores = set()
        for store in stores:
            assert isinstance(store, Store)
            cores.add(_core(store))
        assert len(cores) == 1
        assert isinstance(stores[0], Store)
        assert {info.digest for info in stores[0].content.walk()} == {Digest.of_bytes(b"%d" % n) for n in range(4)}
        together([store.close for store in stores if isinstance(store, Store)])


class TestDefaultRoot:
    def test_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IMGPULL_HOME", "/a")
        monkeypatch.setenv("XDG_DATA_HOME", "/b")
        monkeypatch.setenv("HOME", "/c")
        assert default_root() == Path("/a")
        monkeypatch.setenv("IMGPULL_HOME", "")
        assert default_root() == Path("/b/imgpull")
        monkeypatch.setenv("XDG_DATA_HOME", "relative")
        assert default_root() == Path("/c/.local/share/imgpull")

    def test_it_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IMGPULL_HOME", str(tmp_path / "home"))
        with Store() as store:
            assert store.root == tmp_path / "home"

    def test_without_a_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("IMGPULL_HOME", raising=False)
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        monkeypatch.setattr(Path, "home", homeless)
        with pytest.raises(StoreError, match="set IMGPULL_HOME"):
            default_root()


class TestSharing:
    def test_handles_on_one_directory_share_what_must_exist_once(self, tmp_path: Path) -> None:
        os.symlink(tmp_path / "store", tmp_path / "link")
        with Store(tmp_path / "store") as one, Store(tmp_path / "link", durability="none") as two:
            assert one.identity == two.identity
            assert one.database is two.database
            thing = one.process_wide(object, "thing")
            assert two.process_wide(object, "thing") is thing
            assert two.process_wide(object, "another") is not thing
            with one.content.writer("ref"), pytest.raises(RefLockedError):
                two.content.writer("ref")
            _put(one)
            assert two.content.info(DIGEST) == one.content.info(DIGEST)

    def test_many_threads_that_ask_get_the_one_object(self, tmp_path: Path) -> None:
        with Store(tmp_path / "store") as store:
            assert len(set(together([lambda: store.process_wide(object, "thing")] * 16))) == 1

    def test_making_one_may_ask_for_another(self, tmp_path: Path) -> None:
        with Store(tmp_path / "store") as store:
            made = store.process_wide(lambda: [store.process_wide(object, "inner")], "outer")
            assert made == [store.process_wide(object, "inner")]

    def test_two_directories_share_nothing(self, tmp_path: Path) -> None:
        with Store(tmp_path / "one") as one, Store(tmp_path / "two") as two:
            assert one.identity != two.identity
            assert one.process_wide(object, "thing") is not two.process_wide(object, "thing")
            with one.content.writer("ref"), two.content.writer("ref"):
                pass

    def test_it_lives_as_long_as_the_last_handle_and_is_closed_then(self, tmp_path: Path) -> None:
        class Thing:
            closed = 0

            def close(self) -> None:
                self.closed += 1

        one, two = Store(tmp_path / "store"), Store(tmp_path / "store")
        thing = one.process_wide(Thing, "thing")
        one.close()
        assert thing.closed == 0
        assert two.process_wide(Thing, "thing") is thing
        two.close()
        two.close()
        assert thing.closed == 1
        with Store(tmp_path / "store") as three:
            assert three.process_wide(Thing, "thing") is not thing

    def test_one_handle_that_wants_full_gets_it_for_all(self, tmp_path: Path) -> None:
        def level(store: Store) -> int:
            return int(store.database.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0]))

        with Store(tmp_path / "store", durability="none") as one:
            assert level(one) == 1
            with Store(tmp_path / "store"):
                assert level(one) == 2

    def test_a_directory_that_replaced_a_deleted_one_is_another_store(self, tmp_path: Path) -> None:
        """Without the descriptor that the core holds, a file system gives the same inode number again."""
        old = Store(tmp_path / "store")
        for _ in range(20):
            shutil.rmtree(tmp_path / "store")
            with Store(tmp_path / "store") as new:
                assert _core(new) is not _core(old)
                _put(new)
                assert DIGEST in new.content
        old.close()


class TestClosing:
    def test_it_may_be_closed_again_and_does_not_come_back(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store")
        content = store.content
        store.close()
        store.close()
        for use in (
            lambda: store.content,
            lambda: store.images,
            lambda: store.snapshots,
            lambda: store.database,
            lambda: store.identity,
            lambda: store.process_wide(object, "thing"),
            lambda: store.unpack(DIGEST, tmp_path / "target"),
            store.__enter__,
            lambda: content.writer("ref"),
            lambda: content.remove(DIGEST),
        ):
            with pytest.raises(StoreError, match="closed"):
                use()
        assert (store.root, store.durability, store.read_only) == (tmp_path / "store", "full", False)
        assert "closed" in repr(store)

    def test_of_two_handles_one_stays_usable(self, tmp_path: Path) -> None:
        one, two = Store(tmp_path / "store"), Store(tmp_path / "store")
        one.close()
        one.close()
        _put(two)
        two.close()

    def test_a_writer_that_outlives_the_store_fails_and_leaves_no_descriptor(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store")
        writer = store.content.writer("ref")
        writer.write(DATA)
        store.close()
        with pytest.raises(StoreError, match="closed"):
            writer.commit()

    def test_one_that_is_forgotten_warns(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store")
        core = _core(store)
        with pytest.warns(ResourceWarning, match="unclosed store"):
            del store
            gc.collect()
        core.close()


class TestReadOnly:
    def test_reading_works_and_writing_is_refused(self, tmp_path: Path) -> None:
        with Store(tmp_path / "store") as writing:
            _put(writing)
            before = sorted(os.listdir(tmp_path / "store"))
            with Store(tmp_path / "store", read_only=True) as store:
                assert store.read_only
                with store.content.open(DIGEST) as blob:
                    assert blob.readall() == DATA
                assert store.content.info(DIGEST).size_bytes == len(DATA)
                assert store.images.list() == []
                for use in (
                    lambda: store.content.writer("ref"),
                    lambda: store.content.remove(DIGEST),
                    lambda: store.content.update(DIGEST, {"a": "b"}),
                    lambda: store.content.record_diff_id(DIGEST, DIGEST),
                    lambda: store.content.abort("ref"),
                    lambda: store.images.remove("redis"),
                    lambda: store.images.tag("redis", "valkey"),
                ):
                    with pytest.raises(StoreError, match="read-only"):
                        use()
            assert sorted(os.listdir(tmp_path / "store")) == before
            _put(writing, b"still writable")

    def test_nothing_is_made_where_there_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for name in ("empty", "missing"):
            with pytest.raises(StoreError, match="no store at"):
                Store(tmp_path / name, read_only=True)
        assert os.listdir(tmp_path) == ["empty"]
        assert os.listdir(tmp_path / "empty") == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
    @pytest.mark.parametrize("open_elsewhere", [False, True])
    def test_by_a_user_who_may_only_read(self, open_elsewhere: bool) -> None:
        source = """
            import os
            from imgpull.store import Store
            Store(sys.argv[1] + "-other").close()  # nobody may not read the modules that this imports
            os.setgid(65534); os.setuid(65534)
            with Store(sys.argv[1], read_only=True) as store:
                print([info.size_bytes for info in store.content.walk()])
        """
        with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as open_until:
            store = open_until.enter_context(Store(Path(directory, "store")))
            _put(store)
            if not open_elsewhere:
                open_until.close()
            subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
            assert scripts.run(source, store.root) == f"[{len(DATA)}]\n"


class TestFork:
    def test_a_child_opens_the_store_again_and_the_parent_notices_nothing(self, tmp_path: Path) -> None:
        source = """
            import os
            from imgpull.store import Store
            def put(store, text):
                with store.content.writer(text) as writer:
                    writer.write(text.encode())
                    writer.commit()
            store = Store(sys.argv[1])
            mark = store.process_wide(object, "mark")
            put(store, "parent, before")
            held = store.content.writer("held")
            held.write(b"half")
            child = os.fork()
            if child == 0:
                assert store.process_wide(object, "mark") is not mark
                put(store, "child")
                store.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            put(store, "parent, after")
            held.write(b" and half")
            print(held.commit().size_bytes, len(list(store.content.walk())), store.process_wide(object, "mark") is mark)
            store.close()
        """
        assert scripts.run(source, tmp_path / "store", options=("-W", "ignore")) == "13 4 True\n"

    def test_a_partial_of_a_parent_that_died_is_not_kept_alive_by_its_child(self, tmp_path: Path) -> None:
        source = """
            import os, time
            from imgpull.store import Store
            store = Store(sys.argv[1])
            writer = store.content.writer("ref")
            writer.write(b"half")
            parent = os.getpid()
            if os.fork() == 0:
                while os.getppid() == parent:  # the end of a pipe would come before that of its locks
                    time.sleep(0.001)
                with Store(sys.argv[1]) as again, again.content.writer("ref") as writer:
                    print(writer.offset_bytes, flush=True)
                os._exit(0)
            os._exit(0)
        """
        assert scripts.run(source, tmp_path / "store", options=("-W", "ignore")) == "4\n"


def test_another_content_store_takes_its_place_in_a_subclass(tmp_path: Path) -> None:
    class Counting(ContentStore):
        opened = 0

        def open(self, digest: str):  # type: ignore[no-untyped-def]  # noqa: ANN201
            self.opened += 1
            return super().open(digest)

    class CountingStore(Store):
        def _make_content(self, core: Core, layout: Layout, kind: type[ContentStore] = ContentStore) -> ContentStore:
            return super()._make_content(core, layout, Counting)

    with CountingStore(tmp_path / "store") as store, Store(tmp_path / "store") as plain:
        _put(plain)
        store.content.open(DIGEST).close()
        assert isinstance(store.content, Counting)
        assert store.content.opened == 1
        assert type(plain.content) is ContentStore


def test_a_convoy_can_be_built_from_the_seam(tmp_path: Path) -> None:
    """What the benchmark's oldest arm rests on: a writer may be opened, and committed, within a write."""
    with Store(tmp_path / "store") as store:
        before = store.database.transactions
        writer = store.database.write(lambda _: store.content.writer("ref"))
        writer.write(DATA)
        store.database.write(lambda _: writer.commit())
        assert store.database.transactions - before == 2
        assert DIGEST in store.content


class TestSnapshotsOfAStore:
    def test_a_commit_and_what_is_known_of_its_blob_are_one_write(self, tmp_path: Path) -> None:
        blob, diff_id = Digest.of_bytes(b"blob"), Digest.of_bytes(b"tar")
        with Store(tmp_path / "store", durability="none") as store:
            store.snapshots.prepare("key")
            before = store.database.transactions
            store.snapshots.commit(diff_id, "key", diff_id=diff_id, blob=blob)
            assert store.database.transactions - before == 1
            assert store.content.diff_id(blob) == diff_id
            assert store.snapshots.stat(diff_id).diff_id == diff_id

    @pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
    def test_a_new_directory_that_cannot_be_listed_is_let_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
    ) -> None:
        """No descriptor is left open, which the fixtures see; and the next one may have the key."""
        listed, failed = os.listdir, False

        def fail_once(place: int | str) -> list[str]:
            nonlocal failed
            if isinstance(place, int) and not failed:
                failed = True
                raise error("not now")
            return listed(place)

        with Store(tmp_path / "store", durability="none") as store:
            with monkeypatch.context() as patched:
                patched.setattr(os, "listdir", fail_once)
                with contextlib.suppress(StoreError):
                    store.snapshots.prepare("key")
            assert failed
            if error is PermissionError:
                store.snapshots.prepare("key")
            store.snapshots.remove("key")
