"""A reader that follows a live ingest: what it reads, when it waits, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.threads import DEADLINE_SECONDS, Worker, start, until
from imgpull.errors import (
    AlreadyExistsError,
    DigestMismatchError,
    PullCancelledError,
    SizeMismatchError,
    StoreError,
    StoreFullError,
)
from imgpull.locking import Cancellation
from imgpull.oci import Digest
from imgpull.store import ContentStore, Follower, IngestEnded, Store, Writer, blob_writer, following
from imgpull.unpack.decompress import Readable

DATA = os.urandom(3 * 4096 + 17)
DIGEST = Digest.of_bytes(DATA)
HALF = len(DATA) // 2
REF = f"layer-{DIGEST}"


@pytest.fixture
def content(tmp_path: Path) -> Iterator[ContentStore]:
    with Store(tmp_path / "store", durability="none") as store:
        yield store.content


@pytest.fixture
def writer(content: ContentStore) -> Iterator[Writer]:
    with _open(content) as opened:
        yield opened


def _open(content: ContentStore, size: int | None = len(DATA)) -> Writer:
    return content.writer(REF, expected=DIGEST, total_bytes=size)


def _follow(content: ContentStore, cancel: Cancellation | None = None) -> Follower:
    follower = content.follow(REF, cancel)
    assert follower is not None
    return follower


def _read(source: Readable, buffer_bytes: int = 4096) -> bytes:
    """All of it."""
    buffer, got = memoryview(bytearray(buffer_bytes)), b""
    while count := source.readinto(buffer):
        got += buffer[:count]
    return got


def _reading(follower: Follower) -> Worker:
    def read() -> bytes:
        with follower:
            return _read(follower)

    return start(read, "follower")


def _blocked(writer: Writer, followers: int = 1) -> None:
    """Until that many followers really wait."""
    until(lambda: len(writer.grown._waiters) == followers, f"{followers} followers wait")  # type: ignore[attr-defined]


def _one(follower: Follower, size: int = len(DATA)) -> bytes:
    buffer = memoryview(bytearray(size))
    return bytes(buffer[: follower.readinto(buffer)])


class TestTheBytes:
    def test_a_reader_faster_than_the_writer(self, content: ContentStore, writer: Writer) -> None:
        reading = _reading(_follow(content))
        for at in range(0, len(DATA), 4096):
            _blocked(writer)
            writer.write(DATA[at : at + 4096])
        _blocked(writer)
        writer.commit()
        assert reading.outcome() == DATA

    def test_a_writer_faster_than_the_reader(self, content: ContentStore, writer: Writer) -> None:
        """And one that never reads holds nobody up."""
        with _follow(content) as follower, _follow(content):
            writer.write(DATA)
            writer.commit()
            assert _read(follower) == DATA
            assert follower.committed

    def test_nothing_beyond_the_watermark_is_read(
        self, content: ContentStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Bytes that lie in the file, but are not counted and hashed yet, are not there yet."""
        written, counted = threading.Event(), threading.Event()
        write = os.write

        def write_and_wait(fd: int, data: bytes) -> int:
            count = write(fd, data)
            written.set()
            assert counted.wait(DEADLINE_SECONDS)
            return count

        writer.write(DATA[:HALF])
        monkeypatch.setattr(blob_writer.os, "write", write_and_wait)
        writing = start(lambda: writer.write(DATA[HALF:]))
        with _follow(content) as follower:
            assert written.wait(DEADLINE_SECONDS)
            assert _one(follower) == DATA[:HALF]
            reading = start(lambda: _one(follower))
            _blocked(writer)
            counted.set()
            assert reading.outcome() == DATA[HALF:]
        writing.outcome()

    def test_the_rest_after_the_commit(self, content: ContentStore, writer: Writer) -> None:
        with _follow(content) as follower:
            writer.write(DATA)
            assert _one(follower, 10) == DATA[:10]
            writer.commit()
            content.remove(DIGEST)
            assert _read(follower) == DATA[10:]

    def test_a_blob_that_somebody_else_committed_meanwhile(self, content: ContentStore, writer: Writer) -> None:
        writer.write(DATA)
        with content.writer("other") as other:
            other.write(DATA)
            other.commit()
        with _follow(content) as follower:
            with pytest.raises(AlreadyExistsError):
                writer.commit()
            assert _read(follower) == DATA

    def test_two_followers_read_all_each(self, content: ContentStore, writer: Writer) -> None:
        readings = [_reading(_follow(content)) for _ in range(2)]
        _blocked(writer, 2)
        writer.write(DATA[:HALF])
        _blocked(writer, 2)
        writer.write(DATA[HALF:])
        writer.commit()
        assert [reading.outcome() for reading in readings] == [DATA, DATA]

    def test_one_opened_late_on_an_adopted_partial(self, content: ContentStore) -> None:
        with _open(content) as dead:
            dead.write(DATA[:HALF])
        with _open(content) as writer:
            assert writer.offset_bytes == HALF
            reading = _reading(_follow(content))
            _blocked(writer)
            writer.write(DATA[HALF:])
            writer.commit()
            assert reading.outcome() == DATA

    def test_an_empty_blob(self, content: ContentStore) -> None:
        with content.writer("empty") as writer:
            follower = content.follow("empty")
            assert follower is not None
            reading = _reading(follower)
            _blocked(writer)
            writer.commit()
            assert reading.outcome() == b""


class TestTheEnd:
    def test_it_is_not_said_before_the_verdict(self, content: ContentStore, writer: Writer) -> None:
        with _follow(content) as follower:
            writer.write(DATA)
            assert _one(follower) == DATA
            reading = start(lambda: _one(follower))
            _blocked(writer)
            assert not follower.committed
            writer.commit()
            assert reading.outcome() == b""
            assert follower.committed

    def test_the_writer_begins_again(self, content: ContentStore, writer: Writer) -> None:
        with _follow(content) as old:
            writer.write(DATA[:HALF])
            assert _one(old) == DATA[:HALF]
            reading = start(lambda: _one(old))
            _blocked(writer)
            writer.restart()
            with pytest.raises(IngestEnded):
                reading.outcome()
            with _follow(content) as new:
                writer.write(DATA)
                writer.commit()
                assert _read(new) == DATA
                with pytest.raises(IngestEnded):
                    _one(old)
                assert (old.committed, new.committed) == (False, True)

    def test_bytes_that_changed_while_they_were_read(
        self, content: ContentStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The writer begins again and gets as far, between a follower's look at the watermark and its read."""
        preadv = os.preadv

        def restart_and_read(fd: int, buffers: list[memoryview], offset: int) -> int:
            writer.restart()
            writer.write(DATA[:HALF])
            return preadv(fd, buffers, offset)

        writer.write(bytes(HALF))
        with _follow(content) as follower:
            monkeypatch.setattr(following.os, "preadv", restart_and_read)
            with pytest.raises(IngestEnded):
                _one(follower)

    def test_a_follower_opened_while_the_writer_begins_again(
        self, content: ContentStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It never reads bytes of the old generation as if they were of the new one."""
        opened: list[Follower] = []
        truncate = os.ftruncate

        def follow_and_truncate(fd: int, size: int) -> None:
            opened.append(_follow(content))
            truncate(fd, size)

        writer.write(bytes(HALF))
        monkeypatch.setattr(blob_writer.os, "ftruncate", follow_and_truncate)
        writer.restart()
        writer.write(DATA)
        writer.commit()
        with opened[0] as follower:
            assert _read(follower) == DATA

    def test_a_wrong_digest(self, content: ContentStore, writer: Writer) -> None:
        follower = _follow(content)
        reading = _reading(follower)
        _blocked(writer)
        writer.write(bytes(len(DATA)))
        _blocked(writer)
        with pytest.raises(DigestMismatchError):
            writer.commit()
        with pytest.raises(IngestEnded):
            reading.outcome()
        assert not follower.committed

    def test_a_body_that_was_too_short(self, content: ContentStore, writer: Writer) -> None:
        reading = _reading(_follow(content))
        _blocked(writer)
        writer.write(DATA[:HALF])
        _blocked(writer)
        with pytest.raises(SizeMismatchError):
            writer.commit()
        with pytest.raises(IngestEnded):
            reading.outcome()

    def test_a_partial_that_is_left(self, content: ContentStore, writer: Writer) -> None:
        """It is not read to its end first: nobody knows who will go on with it."""
        with _follow(content) as follower:
            writer.write(DATA[:HALF])
            writer.close()
            with pytest.raises(IngestEnded):
                _one(follower)

    def test_a_disk_that_is_full(self, content: ContentStore, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(fd: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        reading = _reading(_follow(content))
        _blocked(writer)
        monkeypatch.setattr(blob_writer.os, "write", full)
        with writer, contextlib.suppress(StoreFullError):
            writer.write(DATA)
        with pytest.raises(IngestEnded):
            reading.outcome()

    def test_a_file_that_can_not_be_published(
        self, content: ContentStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        writer.write(DATA)
        with _follow(content) as follower:
            monkeypatch.setattr(os, "link", refuse)
            with pytest.raises(StoreError):
                writer.commit()
            assert _has_ended(follower)

    def test_a_file_that_somebody_cut(self, content: ContentStore, writer: Writer) -> None:
        with _follow(content) as follower:
            writer.write(DATA)
            os.truncate(writer.path, 0)
            assert _has_ended(follower)

    def test_a_writer_that_can_not_begin_again(
        self, content: ContentStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(fd: int, size: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        writer.write(DATA)
        with _follow(content) as follower:
            monkeypatch.setattr(blob_writer.os, "ftruncate", refuse)
            with pytest.raises(StoreError):
                writer.restart()
            assert _has_ended(follower)
            assert content.follow(REF) is None


def _has_ended(follower: Follower) -> bool:
    try:
        _one(follower)
    except IngestEnded:
        return True
    return False


class TestWaiting:
    def test_cancel_ends_it(self, content: ContentStore, writer: Writer) -> None:
        cancel = Cancellation()
        reading = _reading(_follow(content, cancel))
        other = _reading(_follow(content))
        _blocked(writer, 2)
        cancel.cancel()
        with pytest.raises(PullCancelledError):
            reading.outcome()
        writer.write(DATA)
        writer.commit()
        assert other.outcome() == DATA

    def test_a_cancellation_keeps_nothing_of_a_follower_that_was_closed(
        self, content: ContentStore, writer: Writer
    ) -> None:
        cancel = Cancellation()
        _follow(content, cancel).close()
        assert not cancel._callbacks

    def test_its_user_is_told_when_it_really_waits(self, content: ContentStore, writer: Writer) -> None:
        told: list[str] = []

        @contextlib.contextmanager
        def lent() -> Iterator[None]:
            told.append("waits")
            yield
            assert not writer.grown._is_owned()  # type: ignore[attr-defined]  # what follows may wait for a slot
            told.append("reads")

        writer.write(DATA[:HALF])
        follower = content.follow(REF, waiting=lent)
        assert follower is not None
        with follower:
            assert _one(follower) == DATA[:HALF]
            assert told == []
            reading = start(lambda: _one(follower))
            _blocked(writer)
            assert told == ["waits"]
            writer.write(DATA[HALF:])
            assert reading.outcome() == DATA[HALF:]
            writer.commit()
            assert _one(follower) == b""
        assert told == ["waits", "reads"]

    def test_its_user_has_it_back_however_it_ends(self, content: ContentStore, writer: Writer) -> None:
        told: list[str] = []

        @contextlib.contextmanager
        def lent() -> Iterator[None]:
            try:
                yield
            finally:
                told.append("has it back")

        cancel = Cancellation()
        cancel.cancel()
        follower = content.follow(REF, cancel, waiting=lent)
        assert follower is not None
        with follower, pytest.raises(PullCancelledError):
            _one(follower)
        assert told == ["has it back"]

    def test_a_writer_without_followers_wakes_nobody(self, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
        woken: list[None] = []
        monkeypatch.setattr(writer, "wake_followers", lambda: woken.append(None))
        writer.write(DATA)
        assert woken == []
        writer.followed = True
        writer.total_bytes = None
        writer.write(DATA)
        assert woken == [None]


class TestNobodyToFollow:
    def test_a_ref_without_a_writer(self, content: ContentStore) -> None:
        assert content.follow(REF) is None

    def test_a_ref_whose_writer_has_ended(self, content: ContentStore) -> None:
        with _open(content) as writer:
            writer.write(DATA)
            writer.commit()
            assert content.follow(REF) is None

    def test_a_writer_that_ends_while_it_is_asked_for(
        self, content: ContentStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.open

        def drop_and_open(path: str, flags: int) -> int:
            writer.drop()
            return real(path, flags)

        monkeypatch.setattr(following.os, "open", drop_and_open)
        assert content.follow(REF) is None


def test_a_follower_opens_one_descriptor_and_closes_it(content: ContentStore, writer: Writer) -> None:
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    follower = _follow(content)
    follower.close()
    follower.close()
    assert not before or set(os.listdir("/proc/self/fd")) == before
