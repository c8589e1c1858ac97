"""The store as containerd's was: right, and it holds the only transaction while it waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.baselines import ConvoyContent, ConvoyStore
from imgpull.errors import AlreadyExistsError, RefLockedError
from imgpull.oci import Digest


@pytest.fixture
def content(tmp_path: Path) -> Iterator[ConvoyContent]:
    with ConvoyStore(tmp_path / "store", durability="none") as store:
        assert isinstance(store.content, ConvoyContent)
        yield store.content


def test_a_blob_is_stored_as_by_any_store(content: ConvoyContent) -> None:
    digest = Digest.of_bytes(b"data")
    with content.writer("layer-x", expected=digest) as writer:
        writer.write(b"data")
        writer.commit(4, digest)
    with content.open(digest) as blob:
        assert blob.read() == b"data"
    with pytest.raises(AlreadyExistsError):
        content.writer("layer-x", expected=digest)
    assert content.tries == 0


def test_a_taken_ref_is_tried_ten_times_inside_the_transaction(content: ConvoyContent) -> None:
    pauses: list[float] = []
    in_transaction: list[bool] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        # A write made from within a write is part of it, and sees the open transaction.
        in_transaction.append(content.database.write(lambda connection: connection.in_transaction))

    content._sleep = sleep
    with content.writer("layer-x"), pytest.raises(RefLockedError):
        content.writer("layer-x")
    assert content.tries == len(pauses) == 10
    assert all(in_transaction)
    assert all(pause < (1 << attempt) / 1000 for attempt, pause in enumerate(pauses))
    assert content.slept_seconds == pytest.approx(sum(pauses))
