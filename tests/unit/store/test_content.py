"""The content store's files: partials dead and alive, modes, order of syncs, and what a failing disk leaves."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import scripts
from fakes.threads import together
from imgpull.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    RefLockedError,
    SizeMismatchError,
    StoreError,
    StoreFullError,
)
from imgpull.oci import Digest
from imgpull.store import ContentStore, Store, Writer, blob_writer

DATA = bytes(range(256)) * 16
DIGEST = Digest.of_bytes(DATA)
HALF = len(DATA) // 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store(root) as opened:
        yield opened


@pytest.fixture
def content(store: Store) -> ContentStore:
    return store.content


def _open(content: ContentStore, ref: str = "layer", expected: Digest | None = DIGEST) -> Writer:
    return content.writer(ref, expected=expected, total_bytes=len(DATA))


def _leave_partial(content: ContentStore, ref: str = "layer", expected: Digest | None = DIGEST) -> Path:
    """A dead partial with the first half; where its data lies."""
    with _open(content, ref, expected) as writer:
        writer.write(DATA[:HALF])
        return Path(writer._ingest.path)


def _ingests(root: Path) -> list[str]:
    return os.listdir(root / "ingest")


HOLDER = """
    from imgpull.store import Store
    store = Store(sys.argv[1])
    writer = store.content.writer("layer", expected=sys.argv[2], total_bytes=4096)
    writer.write(bytes(range(256)) * 8)
    print("holding", flush=True)
    said = input()
    if said == "commit":
        writer.write(bytes(range(256)) * 8)
        try:
            writer.commit()
        except Exception as error:
            print(type(error).__name__)
        else:
            print("committed")
    writer.close()
    store.close()
"""


class TestPartials:
    def test_a_dead_one_is_copied_into_a_file_of_its_own_and_removed(self, content: ContentStore, root: Path) -> None:
        old = _leave_partial(content)
        kept = os.open(old, os.O_RDWR)  # whoever still has it open can't reach the new one
        with _open(content) as writer:
            assert writer.offset_bytes == HALF
            assert os.fstat(kept).st_ino != writer._ingest.stat().st_ino
            assert not old.exists()
            os.pwrite(kept, b"late bytes of a ghost", 0)
            writer.write(DATA[HALF:])
            writer.commit()
        os.close(kept)
        with content.open(DIGEST) as blob:
            assert blob.readall() == DATA

    def test_that_of_a_killed_process_is_adopted(self, content: ContentStore, root: Path) -> None:
        process = scripts.begin(HOLDER, root, DIGEST)
        assert process.stdout is not None and process.stdout.readline() == "holding\n"
        process.kill()
        process.communicate()
        with _open(content) as writer:
            assert writer.offset_bytes == HALF
            assert len(_ingests(root)) == 1

    def test_that_of_a_living_process_is_left_alone_and_the_first_commit_wins(
        self, content: ContentStore, root: Path
    ) -> None:
        process = scripts.begin(HOLDER, root, DIGEST)
        assert process.stdout is not None and process.stdout.readline() == "holding\n"
        with pytest.raises(RefLockedError, match="another process"):
            content.abort("layer")
        with _open(content) as writer:
            assert writer.offset_bytes == 0
            assert len(_ingests(root)) == 2
            writer.write(DATA)
            writer.commit()
        assert len(_ingests(root)) == 1
        assert scripts.finish(process, "commit\n") == "AlreadyExistsError\n"
        assert _ingests(root) == []

    def test_the_longest_is_adopted_and_all_are_removed(self, content: ContentStore, root: Path) -> None:
        _leave_partial(content)
        short = root / "ingest" / (_ingests(root)[0][:-4] + "0000")
        os.mkdir(short)
        (short / "data").write_bytes(DATA[:100])
        (short / "ref").write_bytes(next((root / "ingest").glob("*/ref")).read_bytes())
        with _open(content) as writer:
            assert writer.offset_bytes == HALF
            assert len(_ingests(root)) == 1

    def test_wrong_bytes_on_the_disk_fail_once_and_are_gone(self, content: ContentStore, root: Path) -> None:
        data = _leave_partial(content)
        data.write_bytes(b"\0" * HALF)  # as a power cut may leave it
        with _open(content) as writer, pytest.raises(DigestMismatchError):
            writer.write(DATA[HALF:])
            writer.commit()
        assert _ingests(root) == []
        assert DIGEST not in content
        with _open(content) as writer:
            assert writer.offset_bytes == 0
            writer.write(DATA)
            writer.commit()

    @pytest.mark.parametrize(
        ("expected", "total"), [(Digest.of_bytes(b"other"), len(DATA)), (None, len(DATA)), (DIGEST, 5), (DIGEST, None)]
    )
    def test_one_that_was_to_become_something_else_is_removed_and_not_adopted(
        self, content: ContentStore, root: Path, expected: Digest | None, total: int | None
    ) -> None:
        _leave_partial(content)
        with content.writer("layer", expected=expected, total_bytes=total) as writer:
            assert writer.offset_bytes == 0
            assert len(_ingests(root)) == 1

    @pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"ref": "layer"}', b"\xff", None])
    def test_one_whose_record_is_damaged_is_removed(
        self, content: ContentStore, root: Path, record: bytes | None
    ) -> None:
        path = _leave_partial(content).with_name("ref")
        path.unlink() if record is None else path.write_bytes(record)
        assert content.statuses() == []
        with _open(content) as writer:
            assert writer.offset_bytes == 0
            assert len(_ingests(root)) == 1

    def test_one_that_cannot_be_read_is_given_up(
        self, content: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _leave_partial(content)

        def fail(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(blob_writer.os, "pread", fail)
        with _open(content) as writer:
            assert writer.offset_bytes == 0
            assert len(_ingests(root)) == 1

    def test_a_commit_removes_every_dead_one_of_its_digest_and_no_other(
        self, content: ContentStore, root: Path
    ) -> None:
        _leave_partial(content, "another ref")
        _leave_partial(content, "another digest", None)
        with _open(content, "living") as living, _open(content) as writer:
            writer.write(DATA)
            writer.commit()
            assert sorted(status.ref for status in content.statuses()) == ["another digest", "living"]
            living.write(DATA)
            with pytest.raises(AlreadyExistsError):
                living.commit()

    def test_nothing_is_kept_of_a_writer_that_wrote_nothing(self, content: ContentStore, root: Path) -> None:
        _open(content).close()
        assert _ingests(root) == []

    def test_an_empty_directory_is_taken_away(self, content: ContentStore, root: Path) -> None:
        data = _leave_partial(content)
        data.unlink()
        data.with_name("ref").unlink()
        with _open(content) as writer:
            assert len(_ingests(root)) == 1
            assert writer.offset_bytes == 0

    def test_one_that_is_being_made_elsewhere_is_not_harmed(
        self, content: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between making the directory and locking the data, everybody may take it for dead, and remove it."""
        plain, meddled = os.mkdir, []

        def mkdir_and_meddle(path: str, mode: int = 0o777) -> None:
            plain(path, mode)
            if not meddled:
                meddled.append(path)
                content._ingests.drop_of_digest(DIGEST)
                assert not os.path.exists(path)

        monkeypatch.setattr(os, "mkdir", mkdir_and_meddle)
        with _open(content) as writer:
            writer.write(DATA)
            writer.commit()
        assert meddled and DIGEST in content

    def test_nor_is_one_whose_data_was_made_and_not_locked_yet(
        self, content: ContentStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, meddled = fcntl.flock, []

        def meddle_and_flock(fd: int, operation: int) -> None:
            if not meddled:
                meddled.append(os.readlink(f"/proc/self/fd/{fd}"))
                content._ingests.drop_of_digest(DIGEST)
            plain(fd, operation)

        monkeypatch.setattr(fcntl, "flock", meddle_and_flock)
        with _open(content) as writer:
            monkeypatch.undo()
            writer.write(DATA)
            writer.commit()
        assert meddled and meddled[0].endswith("/data") and not os.path.exists(meddled[0])
        assert DIGEST in content

    def test_what_a_crash_between_link_and_removal_leaves_does_not_harm_the_blob(
        self, content: ContentStore, root: Path
    ) -> None:
        data = _leave_partial(content, expected=None)
        with _open(content, "first") as writer:
            writer.write(DATA)
            writer.commit()
        blob = root / "blobs" / "sha256" / DIGEST.encoded
        data.unlink()
        os.link(blob, data)
        with _open(content, expected=None) as writer:
            assert writer.offset_bytes == len(DATA)
            writer.restart()
            writer.write(b"other")
        assert blob.read_bytes() == DATA
        assert stat.S_IMODE(blob.stat().st_mode) == 0o444


class TestTheFile:
    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_a_blob_is_not_writable_and_a_partial_private(self, content: ContentStore, root: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            with _open(content) as writer:
                writer.write(DATA)
                for name in ("", "/data"):
                    mode = stat.S_IMODE(os.stat(writer._ingest.directory + name).st_mode)
                    assert mode == (0o600 if name else 0o700)
                writer.commit()
        finally:
            os.umask(before)
        assert stat.S_IMODE((root / "blobs" / "sha256" / DIGEST.encoded).stat().st_mode) == 0o444

    def test_it_was_synced_before_it_had_its_name_and_its_name_before_its_row(
        self, content: ContentStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []

        def note(what: str) -> None:
            rows = content.database.query("SELECT 1 FROM blobs WHERE digest = ?", (DIGEST,))
            events.append(f"{what}, {'named' if DIGEST in content else 'nameless'}, {len(rows)} rows")

        class Watched:
            def data(self, fd: int) -> None:
                note("data")

            def directory(self, path: str) -> None:
                note(f"directory {os.path.basename(path)}")

        monkeypatch.setattr(content.blobs, "_sync", Watched())
        with _open(content) as writer:
            writer.write(DATA)
            writer.commit()
        assert events == ["data, nameless, 0 rows", "directory sha256, named, 0 rows"]
        assert len(content.database.query("SELECT 1 FROM blobs")) == 1

    def test_one_commit_is_one_transaction(self, store: Store) -> None:
        before = store.database.transactions
        with _open(store.content) as writer:
            writer.write(DATA)
            writer.commit()
        assert store.database.transactions - before == 1

    def test_a_row_that_comes_late_leaves_what_another_process_wrote(self, store: Store) -> None:
        with store.database.gathering():
            with _open(store.content) as writer:
                writer.write(DATA)
                committed = writer.commit()
            row = (DIGEST, len(DATA), committed.created_at.isoformat(), "9999-01-01T00:00:00+00:00", '{"a": "b"}')
            with contextlib.closing(sqlite3.connect(store.database.path)) as elsewhere, elsewhere:
                elsewhere.execute("INSERT INTO blobs VALUES (?, ?, ?, ?, ?)", row)
            store.database.write(lambda _: None)
        assert dict(store.content.info(DIGEST).labels) == {"a": "b"}

    @pytest.mark.parametrize("meddle", ["replaced", "grown"])
    def test_a_file_that_somebody_meddled_with_is_not_published(
        self, content: ContentStore, root: Path, meddle: str
    ) -> None:
        with _open(content) as writer:
            writer.write(DATA)
            path = Path(writer._ingest.path)
            if meddle == "replaced":
                path.unlink()
                path.write_bytes(b"e" * len(DATA))
            else:
                with open(path, "ab") as file:
                    file.write(b"more")
            with pytest.raises(StoreError, match="changed by somebody else"):
                writer.commit()
        assert DIGEST not in content
        assert _ingests(root) == []

    def test_the_row_may_be_missing(self, store: Store) -> None:
        with _open(store.content) as writer:
            writer.write(DATA)
            writer.commit(labels={"a": "b"})
        store.database.write(lambda c: c.execute("DELETE FROM blobs"))
        info = store.content.info(DIGEST)
        assert (info.size_bytes, dict(info.labels)) == (len(DATA), {})
        assert [found.digest for found in store.content.walk()] == [DIGEST]
        assert dict(store.content.update(DIGEST, {"c": "d"}).labels) == {"c": "d"}

    def test_what_is_no_blob_is_none(self, content: ContentStore, root: Path) -> None:
        (root / "blobs" / "sha256" / "notes.txt").write_text("x")
        os.symlink("/etc/passwd", root / "blobs" / "sha256" / DIGEST.encoded)
        assert DIGEST not in content
        with pytest.raises(StoreError):
            content.open(DIGEST)

    @pytest.mark.parametrize("text", ["../../etc/passwd", "sha256:../../x", "sha256:" + "A" * 64, DIGEST + "\n"])
    def test_a_text_that_is_no_digest_is_refused_before_it_is_a_path(self, content: ContentStore, text: str) -> None:
        for ask in (content.open, content.info, content.remove, lambda d: d in content, content.diff_id):
            with pytest.raises(ValueError, match="digest"):
                ask(text)

    def test_a_file_system_without_links(self, content: ContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        with _open(content) as writer:
            writer.write(DATA)
            writer.commit()
        assert DIGEST in content


class TestWrongSizes:
    def test_more_than_was_announced_is_not_stored(self, content: ContentStore) -> None:
        with _open(content) as writer:
            writer.write(DATA[:-1])
            with pytest.raises(SizeMismatchError):
                writer.write(b"xy")
            assert writer.offset_bytes == writer.status().offset_bytes == len(DATA) - 1
            writer.write(DATA[-1:])
            writer.commit()


class TestAFailingDisk:
    def test_a_write_that_finds_no_space(self, content: ContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Half of the block fits; the writer knows exactly which half, and goes on when there is space again."""
        plain, calls = os.write, []

        def write(fd: int, data: bytes) -> int:
            calls.append(len(data))
            if len(calls) == 1:
                return plain(fd, memoryview(data)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

        with _open(content) as writer:
            with monkeypatch.context() as patched:
                patched.setattr(blob_writer.os, "write", write)
                with pytest.raises(StoreFullError) as caught:
                    writer.write(DATA)
            assert caught.value.errno == errno.ENOSPC
            assert writer.offset_bytes == writer.status().offset_bytes == 100
            assert writer.digest() == Digest.of_bytes(DATA[:100])
            writer.write(DATA[100:])
            writer.commit()
        assert calls == [len(DATA), len(DATA) - 100]

    def test_a_sync_that_fails_is_not_tried_again(
        self, content: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Failing:
            def data(self, fd: int) -> None:
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(content.blobs, "_sync", Failing())
        with _open(content) as writer:
            writer.write(DATA)
            with pytest.raises(StoreError, match="Input/output error"):
                writer.commit()
        assert DIGEST not in content
        assert _ingests(root) == []

    def test_an_ingest_that_cannot_begin_leaves_its_ref_free(
        self, content: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = open

        def full(path: object, *arguments: object) -> object:
            if str(path).endswith("/ref") and "xb" in arguments:
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(path, *arguments)  # type: ignore[call-overload]

        with monkeypatch.context() as patched:
            patched.setattr("builtins.open", full)
            with pytest.raises(StoreFullError):
                _open(content)
        assert _ingests(root) == []
        _open(content).close()


class TestManyThreads:
    def test_of_many_that_open_one_ref_one_gets_it(self, content: ContentStore) -> None:
        def attempt() -> Writer | None:
            try:
                return _open(content)
            except RefLockedError:
                return None

        writers = [writer for writer in together([attempt] * 16) if writer is not None]
        assert len(writers) == 1
        assert isinstance(writers[0], Writer)
        writers[0].close()

    def test_many_that_commit_one_blob_under_refs_of_their_own(self, content: ContentStore, root: Path) -> None:
        def commit(ref: str) -> str:
            with content.writer(ref) as writer:
                writer.write(DATA)
                try:
                    writer.commit(expected=DIGEST)
                except AlreadyExistsError:
                    return "exists"
                return "committed"

        said = together([lambda number=number: commit(f"ref-{number}") for number in range(12)])
        assert sorted(map(str, said)) == ["committed"] + ["exists"] * 11
        assert _ingests(root) == []


class TestDiffIDs:
    def test_what_was_measured_is_remembered_beyond_the_blob(self, content: ContentStore) -> None:
        diff_id = Digest.of_bytes(b"tar")
        assert content.diff_id(DIGEST) is None
        content.record_diff_id(DIGEST, diff_id)
        content.record_diff_id(DIGEST, diff_id)
        assert content.diff_id(DIGEST) == diff_id
        assert isinstance(content.diff_id(DIGEST), Digest)


def test_a_store_on_a_full_disk_says_so_and_works_again(tmp_path: Path) -> None:
    """On a real file system of one mebibyte."""
    source = """
        import os, subprocess
        from imgpull.errors import StoreFullError
        from imgpull.oci import Digest
        from imgpull.store import Store
        disk = sys.argv[1]
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=100", "tmpfs", disk]
        if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
            print("no mount")
            sys.exit()
        try:
            with Store(disk + "/store", durability="none") as store:
                with store.content.writer("small") as writer:
                    writer.write(b"s" * 100_000)
                    small = writer.commit().digest
                big = store.content.writer("big")
                try:
                    while True:
                        big.write(b"b" * 65536)
                except StoreFullError as error:
                    print(error.errno)
                try:
                    store.content.writer("next")
                except StoreFullError as error:
                    print("full")
                try:
                    store.database.write(lambda c: c.execute("INSERT INTO diff_ids VALUES ('x', hex(zeroblob(99999)))"))
                except StoreFullError as error:
                    print("full")
                big.drop()
                store.content.remove(small)
                with store.content.writer("next") as writer:
                    writer.write(b"n" * 100_000)
                    print(writer.commit().size_bytes)
        finally:
            subprocess.run(["umount", disk], check=True)
    """
    said = scripts.run(source, tmp_path)
    if said == "no mount\n":
        pytest.skip("mounting a tmpfs is not allowed here")
    assert said == f"{errno.ENOSPC}\nfull\nfull\n100000\n"
