"""What every content store promises: containerd's ``core/content/testsuite/testsuite.go``, test by test, and in which
two points we differ on purpose: a partial with a wrong digest is not kept, and Abort refuses what is being written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgpull.errors import (
    AlreadyExistsError,
    ContentNotFoundError,
    DigestMismatchError,
    RefLockedError,
    SizeMismatchError,
    StoreError,
)
from imgpull.oci import Digest
from imgpull.store import ContentStore, Status, Store, Writer
from imgpull.store.durability import Durability

EMPTY = Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
LABELS = {"containerd.io/gc.root": "2026-11-24T00:00:00Z"}
TICK = timedelta(milliseconds=20)
"""File times are taken from the kernel's tick, which lags behind the clock."""


def _store(root: Path, durability: Durability) -> Store:
    return Store(root, durability=durability)


IMPLEMENTATIONS: dict[str, Callable[[Path], Store]] = {
    "full": lambda root: _store(root, "full"),
    "none": lambda root: _store(root, "none"),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def content(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ContentStore]:
    with IMPLEMENTATIONS[request.param](tmp_path / "store") as store:
        yield store.content


@dataclass
class Span:
    """The time something took, for "between then and now"."""

    begin: datetime = field(default_factory=lambda: datetime.now(UTC))
    end: datetime | None = None

    def closed(self) -> Span:
        self.end = datetime.now(UTC)
        return self

    def holds(self, moment: datetime) -> bool:
        assert self.end is not None
        return self.begin - TICK <= moment <= self.end


def _bytes(size: int, seed: int) -> tuple[bytes, Digest]:
    data = random.Random(seed).randbytes(size)
    return data, Digest.of_bytes(data)


def _put(content: ContentStore, ref: str, data: bytes, expected: str | None = None) -> None:
    with content.writer(ref, expected=expected) as writer:
        writer.write(data)
        writer.commit(len(data))


def _check_info(content: ContentStore, digest: Digest, size: int, created: Span, labels: Mapping[str, str]) -> None:
    info = content.info(digest)
    assert (info.digest, info.size_bytes, dict(info.labels)) == (digest, size, labels)
    assert created.holds(info.created_at)
    assert info.updated_at == info.created_at


def _check_status(writer: Writer, expected: Status, digest: Digest, started: Span, updated: Span) -> None:
    status = writer.status()
    assert writer.digest() == digest
    for name in ("ref", "offset_bytes", "total_bytes", "expected"):
        assert getattr(status, name) == getattr(expected, name), name
    assert started.holds(status.started_at)
    assert updated.holds(status.updated_at)


def _status(ref: str, offset: int, total: int | None, expected: Digest | None) -> Status:
    return Status(ref, offset, total, expected, datetime.now(UTC), datetime.now(UTC))


class TestWriter:
    @pytest.mark.parametrize(("with_size", "with_digest"), [(False, False), (True, False), (False, True), (True, True)])
    def test_what_is_known_beforehand_makes_no_difference(
        self, content: ContentStore, with_size: bool, with_digest: bool
    ) -> None:
        data, digest = _bytes(256, 1)
        with content.writer(
            "c1", total_bytes=256 if with_size else None, expected=digest if with_digest else None
        ) as writer:
            for start in range(0, 256, 32):
                assert writer.write(memoryview(data)[start : start + 32]) == 32
            span = Span()
            writer.commit(labels=LABELS)
            assert writer.digest() == digest
        _check_info(content, digest, 256, span.closed(), LABELS)

    def test_four_at_once_do_not_mix(self, content: ContentStore) -> None:
        made = [_bytes(256, seed) for seed in range(4)]
        writers = [content.writer(f"c{number}") for number in range(4)]
        for start in range(0, 256, 64):
            for writer, (data, _) in zip(writers, made, strict=True):
                writer.write(data[start : start + 64])
        for writer in writers:
            writer.commit()
        for data, digest in made:
            with content.open(digest) as blob:
                assert blob.readall() == data

    def test_an_empty_blob_is_a_blob(self, content: ContentStore) -> None:
        with content.writer("empty", expected=EMPTY, total_bytes=0) as writer:
            assert writer.digest() == EMPTY
            writer.commit(0, EMPTY)
        assert EMPTY in content
        with content.open(EMPTY) as blob:
            assert blob.readall() == b""

    def test_a_ref_must_say_something(self, content: ContentStore) -> None:
        with pytest.raises(StoreError, match="ref"):
            content.writer("")


class TestUpdateStatus:
    def test_status_and_digest_follow_the_bytes(self, content: ContentStore) -> None:
        data, digest = _bytes(256, 2)
        started = Span()
        writer = content.writer("c1", expected=digest, total_bytes=256)
        updated = started.closed()
        _check_status(writer, _status("c1", 0, 256, digest), EMPTY, started, updated)
        for start, end in ((0, 64), (64, 192), (192, 256)):
            updated = Span()
            writer.write(data[start:end])
            updated.closed()
            _check_status(writer, _status("c1", end, 256, digest), Digest.of_bytes(data[:end]), started, updated)
            assert content.status("c1") == writer.status()
        span = Span()
        writer.commit(labels=LABELS)
        _check_info(content, digest, 256, span.closed(), LABELS)
        with pytest.raises(ContentNotFoundError):
            content.status("c1")

    def test_statuses_lists_every_ref_once(self, content: ContentStore) -> None:
        with content.writer("b", total_bytes=9) as live, content.writer("a") as dead:
            live.write(b"12")
            dead.write(b"123")
            dead.close()
            assert [(s.ref, s.offset_bytes, s.total_bytes) for s in content.statuses()] == [("a", 3, None), ("b", 2, 9)]


class TestCommitExists:
    @pytest.mark.parametrize("with_digest", [True, False])
    def test_the_second_commit_says_so_and_leaves_nothing(self, content: ContentStore, with_digest: bool) -> None:
        data, digest = _bytes(256, 3)
        _put(content, "c1", data)
        with content.writer("c1-commitexists") as writer:
            writer.write(data)
            with pytest.raises(AlreadyExistsError) as caught:
                writer.commit(len(data), digest if with_digest else None)
        assert caught.value.key == digest
        assert content.statuses() == []

    def test_a_writer_for_what_is_here_is_not_opened(self, content: ContentStore) -> None:
        data, digest = _bytes(256, 3)
        _put(content, "c1", data)
        with pytest.raises(AlreadyExistsError):
            content.writer("again", expected=digest)
        content.writer("again").close()


class TestResume:
    def test_the_next_writer_goes_on_with_the_same_times(self, content: ContentStore) -> None:
        data, digest = _bytes(256, 4)
        started = Span()
        with content.writer("cb", expected=digest, total_bytes=256) as writer:
            started.closed()
            updated = Span()
            writer.write(data[:128])
            updated.closed()
            _check_status(writer, _status("cb", 128, 256, digest), Digest.of_bytes(data[:128]), started, updated)
        with content.writer("cb", expected=digest, total_bytes=256) as writer:
            assert (writer.offset_bytes, writer.generation) == (128, 0)
            _check_status(writer, _status("cb", 128, 256, digest), Digest.of_bytes(data[:128]), started, updated)
            updated = Span()
            writer.write(data[128:])
            updated.closed()
            _check_status(writer, _status("cb", 256, 256, digest), digest, started, updated)
            span = Span()
            writer.commit()
        _check_info(content, digest, 256, span.closed(), {})

    @pytest.mark.parametrize("size", [500, 5_000, 50_000])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
    @pytest.mark.parametrize("truncate", [True, False], ids=["ResumeTruncate", "ResumeDiscard"])
    def test_from_any_offset(self, content: ContentStore, size: int, share: float, truncate: bool) -> None:
        data, digest = _bytes(size, size)
        limit = int(size * share)
        with content.writer("ref", expected=digest, total_bytes=size) as writer:
            writer.write(data[:limit])
        with content.writer("ref", expected=digest, total_bytes=size) as writer:
            assert writer.status().offset_bytes == writer.offset_bytes == limit
            if truncate:
                writer.restart()
                assert (writer.offset_bytes, writer.generation, writer.digest()) == (0, 1, EMPTY)
            for start in range(writer.offset_bytes, size, 1024):
                writer.write(data[start : start + 1024])
            span = Span()
            writer.commit(size, digest)
        _check_info(content, digest, size, span.closed(), {})
        with content.open(digest) as blob:
            assert blob.readall() == data


class TestSmallBlob:
    def test_a_read_beyond_the_end_is_short(self, content: ContentStore) -> None:
        _put(content, "small", b"foobar", Digest.of_bytes(b"foobar"))
        with content.open(Digest.of_bytes(b"foobar")) as blob:
            assert blob.read(7) == b"foobar"
            assert blob.read(7) == b""

    def test_what_is_not_here(self, content: ContentStore) -> None:
        assert EMPTY not in content
        for ask in (content.open, content.info, content.remove, lambda digest: content.update(digest, {"a": "b"})):
            with pytest.raises(ContentNotFoundError, match=EMPTY):
                ask(EMPTY)


class TestLabels:
    def test_they_are_set_changed_and_removed_one_by_one(self, content: ContentStore) -> None:
        data, digest = _bytes(256, 5)
        with content.writer("c1-checklabels", expected=digest, total_bytes=256) as writer:
            writer.write(data)
            created = writer.commit(labels={"k1": "v1", "k2": "v2", **LABELS})
        assert content.info(digest) == created
        updated = content.update(digest, {"k1": "newvalue", "k2": None, "k3": "v3"})
        assert dict(updated.labels) == {"k1": "newvalue", "k3": "v3", **LABELS}
        assert updated.created_at == created.created_at
        assert updated.updated_at > created.updated_at
        assert content.info(digest) == updated
        content.update(digest, {"k3": "", "k1": "v1"})
        assert dict(content.info(digest).labels) == {"k1": "v1", **LABELS}

    def test_key_and_value_have_4096_bytes_together(self, content: ContentStore) -> None:
        _put(content, "c", b"x")
        content.update(Digest.of_bytes(b"x"), {"k" * 96: "v" * 4000})
        with pytest.raises(StoreError, match="4096"):
            content.update(Digest.of_bytes(b"x"), {"k" * 97: "v" * 4000})


class TestCommitErrorState:
    REF = "c1-commiterror-state"

    def _open(self, content: ContentStore) -> Writer:
        writer = content.writer(self.REF)
        with pytest.raises(RefLockedError) as caught:
            content.writer(self.REF)
        assert caught.value.ref == self.REF
        return writer

    def test_every_failed_commit_frees_the_ref(self, content: ContentStore) -> None:
        data, digest = _bytes(256, 6)
        _, other = _bytes(256, 7)
        _put(content, "c1", data)

        for expected in (digest, None):
            writer = self._open(content)
            writer.write(data)
            with pytest.raises(AlreadyExistsError):
                writer.commit(len(data), expected)

        writer = self._open(content)
        writer.write(data + b"more")
        with pytest.raises(DigestMismatchError) as wrong_digest:
            writer.commit(len(data) + 4, other)
        assert (wrong_digest.value.expected, wrong_digest.value.actual) == (other, Digest.of_bytes(data + b"more"))

        writer = self._open(content)
        assert writer.offset_bytes == 0  # containerd goes on with the wrong bytes here, and fails for ever
        writer.write(data + b"more")
        with pytest.raises(SizeMismatchError) as too_long:
            writer.commit(len(data))
        assert (too_long.value.expected, too_long.value.actual) == (len(data), len(data) + 4)

        writer = self._open(content)
        assert writer.offset_bytes == 0
        writer.write(data)
        with pytest.raises(SizeMismatchError):
            writer.commit(len(data) + 4)

        writer = self._open(content)
        assert writer.offset_bytes == len(data)  # too short: the rest may still come
        writer.write(b"more")
        writer.commit(len(data) + 4)

        writer = self._open(content)
        writer.close()
        writer = self._open(content)
        writer.close()
        assert content.statuses() == []

    def test_after_its_end_a_writer_is_of_no_use(self, content: ContentStore) -> None:
        writer = content.writer("c")
        writer.write(b"x")
        writer.commit()
        writer.close()
        writer.close()
        assert writer.digest() == Digest.of_bytes(b"x")
        for use in (lambda: writer.write(b"y"), writer.restart, writer.commit, writer.status):
            with pytest.raises(StoreError, match="closed"):
                use()


class TestAbort:
    def test_it_removes_what_is_dead(self, content: ContentStore) -> None:
        with content.writer("ref") as writer:
            writer.write(b"12345")
        content.abort("ref")
        with pytest.raises(ContentNotFoundError):
            content.status("ref")
        with content.writer("ref") as writer:
            assert writer.offset_bytes == 0
        with pytest.raises(ContentNotFoundError):
            content.abort("ref")

    def test_it_refuses_what_is_being_written(self, content: ContentStore) -> None:
        with content.writer("ref") as writer:
            writer.write(b"12345")
            with pytest.raises(RefLockedError):
                content.abort("ref")
            assert writer.commit().size_bytes == 5


class TestWalkAndRemove:
    def test_walk_gives_every_blob_with_its_labels(self, content: ContentStore) -> None:
        made = [_bytes(100, seed) for seed in range(3)]
        for data, digest in made:
            _put(content, digest, data)
        content.update(made[0][1], {"a": "b"})
        assert {info.digest: dict(info.labels) for info in content.walk()} == {
            digest: {"a": "b"} if digest == made[0][1] else {} for _, digest in made
        }

    def test_a_removed_blob_can_be_read_to_its_end_by_who_has_it_open(self, content: ContentStore) -> None:
        data, digest = _bytes(100, 8)
        _put(content, "c", data)
        with content.open(digest) as blob:
            content.remove(digest)
            assert digest not in content
            assert blob.readall() == data
        _put(content, "c", data)
        assert digest in content
        assert dict(content.info(digest).labels) == {}


class TestSha512:
    def test_content_is_verified_with_the_algorithm_of_its_digest(self, content: ContentStore) -> None:
        data = b"long digest"
        digest = Digest.of_bytes(data, "sha512")
        for ref, expected in (("known before", digest), ("known at commit", None)):
            with content.writer(ref, expected=expected) as writer:
                writer.write(data)
                assert writer.commit(expected=digest).digest == digest
            content.remove(digest)
        with content.writer("wrong", expected=digest) as writer, pytest.raises(DigestMismatchError):
            writer.write(b"other bytes")
            writer.commit()
