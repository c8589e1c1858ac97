"""Blob bodies: where they begin, where they end, and what is believed of a partial answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fakes import images
from fakes.registry import (
    BearerAuth,
    FakeRegistry,
    Gate,
    Reply,
    ignoring_range,
    redirect,
    refused,
    reset,
    stalled,
    truncated,
)
from fakes.threads import Worker
from imgpull.errors import (
    NotFoundError,
    PullCancelledError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    SizeMismatchError,
    UnauthorizedError,
)
from imgpull.locking import Cancellation
from imgpull.oci import Descriptor, Digest
from imgpull.reference import Reference
from imgpull.registry import BlobResponse, Credential, DefaultHosts, Host, Registry

Connect = Callable[..., Registry]
DATA = images.random_bytes(300_000)
BLOB = Descriptor("application/octet-stream", Digest.of_bytes(DATA), len(DATA))


@pytest.fixture
def reference(registry: FakeRegistry) -> Reference:
    registry.add_blob(DATA)
    return Reference.parse(f"{registry.address}/library/redis:7.2")


def read(blob: BlobResponse, block: int = 64 * 1024) -> bytes:
    found, view = bytearray(), memoryview(bytearray(block))
    with blob:
        while size := blob.readinto(view):
            found += view[:size]
    return bytes(found)


@pytest.mark.parametrize("offset", [0, 1, 511, 150_000, len(DATA) - 1])
def test_from_an_offset(registry: FakeRegistry, reference: Reference, connect: Connect, offset: int) -> None:
    sent: list[tuple[str, int]] = []
    blob = connect().open_blob(reference, BLOB, offset, on_request=lambda *what: sent.append(what))
    assert (blob.offset_bytes, blob.size_bytes, blob.digest) == (offset, len(DATA), BLOB.digest)
    assert blob.host.address == registry.address
    assert read(blob) == DATA[offset:]
    assert registry.requests[0].headers.get("range") == (f"bytes={offset}-" if offset else None)
    assert registry.requests[0].headers["accept-encoding"] == "identity"
    assert sent == [(registry.address, offset)]


@pytest.mark.parametrize("offset", [len(DATA), len(DATA) + 1, -1])
def test_an_offset_that_is_none_begins_at_zero(
    registry: FakeRegistry, reference: Reference, connect: Connect, offset: int
) -> None:
    blob = connect().open_blob(reference, BLOB, offset)
    assert blob.offset_bytes == 0
    assert read(blob) == DATA
    assert "range" not in registry.requests[0].headers


@pytest.mark.parametrize("framing", [{}, {"chunked": True}, {"until_close": True}])
def test_every_framing(
    registry: FakeRegistry, reference: Reference, connect: Connect, framing: dict[str, bool]
) -> None:
    registry.always("GET", "/blobs/", Reply(200, body=DATA, **framing))
    assert read(connect().open_blob(reference, BLOB)) == DATA


def test_an_empty_blob(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.add_blob(b"")
    blob = connect().open_blob(reference, Descriptor("a/b", Digest.of_bytes(b""), 0))
    assert read(blob) == b""


def test_a_complete_blob_gives_its_connection_back(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    client = connect()
    for _ in range(3):
        assert read(client.open_blob(reference, BLOB)) == DATA
    assert registry.connections == 1


# Partial answers. A part is only taken where its headers leave no doubt; else the blob is asked for whole, once.


def test_a_range_that_is_ignored_begins_at_zero(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.always("GET", "/blobs/", ignoring_range)
    blob = connect().open_blob(reference, BLOB, 1000)
    assert blob.offset_bytes == 0
    assert read(blob) == DATA
    assert registry.count() == 1


def test_416_is_asked_for_whole(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.script("GET", "/blobs/", Reply(416, {"Content-Range": f"bytes */{len(DATA)}"}))
    blob = connect().open_blob(reference, BLOB, 1000)
    assert blob.offset_bytes == 0
    assert read(blob) == DATA
    assert ["range" in request.headers for request in registry.requests] == [True, False]


END = len(DATA) - 1
TOTAL = len(DATA)


# containers/image TestParseContentRange's bad rows, and ranges that are well formed but not the one asked for.
@pytest.mark.parametrize(
    "content_range",
    [
        None,
        "",
        "notbytes 1000-1010/*",
        "bytes ",
        "bytes x-2/3",
        "bytes 1*2/3",
        "bytes 1",
        "bytes 1000-",
        "bytes 1000-x/3",
        "bytes 1000-2",
        "bytes 1000-2@3",
        "bytes 1000-2/",
        "bytes 1000-2/*a",
        "bytes 1000-2/3a",
        f"bytes 1000-{END}/{TOTAL}, bytes 1000-{END}/{TOTAL}",
        f"bytes 999-{END}/{TOTAL}",
        f"bytes 1001-{END}/{TOTAL}",
        f"bytes 0-{END}/{TOTAL}",
        f"bytes 1000-{END}/{TOTAL + 1}",
        f"bytes 1000-{END + 1}/{TOTAL}",
        f"bytes 1000-999/{TOTAL}",
        f"bytes ١٠٠٠-{END}/{TOTAL}".encode().decode("latin-1"),
        "bytes 1000-" + "9" * 100 + "/*",
    ],
)
def test_a_doubtful_part_is_asked_for_whole(
    registry: FakeRegistry, reference: Reference, connect: Connect, content_range: str | None
) -> None:
    headers = {} if content_range is None else {"Content-Range": content_range}
    registry.script("GET", "/blobs/", Reply(206, headers, DATA[1000:]))
    blob = connect().open_blob(reference, BLOB, 1000)
    assert blob.offset_bytes == 0
    assert read(blob) == DATA
    assert registry.count() == 2


@pytest.mark.parametrize("content_range", [f"bytes 1000-{END}/*", f"bytes 01000-{END}/{TOTAL}"])
def test_an_unusual_part_is_taken(
    registry: FakeRegistry, reference: Reference, connect: Connect, content_range: str
) -> None:
    registry.script("GET", "/blobs/", Reply(206, {"Content-Range": content_range}, DATA[1000:]))
    assert read(connect().open_blob(reference, BLOB, 1000)) == DATA[1000:]
    assert registry.count() == 1


def test_a_part_that_nobody_asked_for_is_transient(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.always("GET", "/blobs/", Reply(206, {"Content-Range": f"bytes 0-{END}/{TOTAL}"}, DATA))
    with pytest.raises(RegistryUnavailableError, match="a part of blob") as caught:
        connect().open_blob(reference, BLOB)
    assert caught.value.retryable


def test_a_shorter_part_ends_early(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    reply = Reply(206, {"Content-Range": f"bytes 1000-1999/{TOTAL}"}, DATA[1000:2000])
    registry.script("GET", "/blobs/", reply)
    blob = connect().open_blob(reference, BLOB, 1000)
    view = memoryview(bytearray(4000))
    assert blob.readinto(view) == 1000
    with blob, pytest.raises(RegistryUnavailableError, match="ended after 2000 of 300000 bytes"):
        blob.readinto(view)


# Ends.


@pytest.mark.parametrize("cut", [0, 1, 511, 150_000, len(DATA) - 1])
@pytest.mark.parametrize("how", [truncated, reset])
@pytest.mark.parametrize("offset", [0, 100])
def test_what_came_before_a_cut_is_kept_and_the_cut_is_transient(
    registry: FakeRegistry, reference: Reference, connect: Connect, cut: int, how: Callable[[int], object], offset: int
) -> None:
    registry.script("GET", "/blobs/", how(max(cut - offset, 0)))  # type: ignore[arg-type]
    blob = connect().open_blob(reference, BLOB, offset)
    found, view = bytearray(), memoryview(bytearray(10_000))
    with blob, pytest.raises(RegistryUnavailableError) as caught:
        while size := blob.readinto(view):
            found += view[:size]
    assert caught.value.retryable
    assert DATA[offset:].startswith(found)
    if how is truncated:  # a reset may overtake bytes
        assert len(found) == max(cut - offset, 0)


def test_a_short_body_without_a_length_is_no_success(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.always("GET", "/blobs/", Reply(200, body=DATA[:-1], until_close=True))
    with pytest.raises(RegistryUnavailableError, match="ended after 299999 of 300000 bytes; try again later") as caught:
        read(connect().open_blob(reference, BLOB))
    assert caught.value.retryable


def test_a_length_beyond_the_descriptors_is_not_even_read(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.always("GET", "/blobs/", Reply(200, body=DATA + b"x"))
    with pytest.raises(SizeMismatchError, match="longer than the 300000 bytes") as caught:
        connect().open_blob(reference, BLOB)
    assert caught.value.expected == 300_000


@pytest.mark.parametrize("framing", [{"chunked": True}, {"until_close": True}])
def test_a_longer_body_is_left_at_the_first_byte_too_many(
    registry: FakeRegistry, reference: Reference, connect: Connect, framing: dict[str, bool]
) -> None:
    gate = Gate()
    registry.always("GET", "/blobs/", Reply(200, pieces=(DATA + b"x", gate, bytes(1 << 20)), **framing))
    blob = connect().open_blob(reference, BLOB)
    found, view = bytearray(), memoryview(bytearray(70_000))
    with pytest.raises(SizeMismatchError):
        while size := blob.readinto(view):
            found += view[:size]
    assert DATA.startswith(found)
    gate.open()


def test_a_content_encoding_is_refused(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.always("GET", "/blobs/", Reply(200, {"Content-Encoding": "gzip"}, DATA))
    with pytest.raises(RegistryUnavailableError, match="Content-Encoding") as caught:
        connect().open_blob(reference, BLOB)
    assert not caught.value.retryable


def test_identity_is_no_encoding(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.always("GET", "/blobs/", Reply(200, {"Content-Encoding": "Identity"}, DATA))
    assert read(connect().open_blob(reference, BLOB)) == DATA


# One attempt: the loop belongs to whoever reads.


@pytest.mark.parametrize(
    ("answer", "kind", "retryable"),
    [
        (Reply(500), RegistryUnavailableError, True),
        (refused(404, "BLOB_UNKNOWN"), NotFoundError, False),
        (Reply(403), UnauthorizedError, False),
        (Reply(429, {"Retry-After": "5"}), RateLimitedError, True),
        (Reply(416), RegistryUnavailableError, False),
    ],
)
def test_one_attempt(
    registry: FakeRegistry, reference: Reference, connect: Connect, clock, answer: Reply,  # type: ignore[no-untyped-def]
    kind: type[RegistryError], retryable: bool,
) -> None:  # fmt: skip
    registry.always("GET", "/blobs/", answer)
    with pytest.raises(kind) as caught:
        connect().open_blob(reference, BLOB)
    assert caught.value.retryable is retryable
    assert registry.count() == 1
    assert clock.slept == []


def test_a_retry_after_holds_the_next_one_off(
    registry: FakeRegistry, reference: Reference, connect: Connect, clock  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.script("GET", "/blobs/", Reply(503, {"Retry-After": "5"}))
    client = connect()
    with pytest.raises(RegistryUnavailableError):
        client.open_blob(reference, BLOB)
    assert read(client.open_blob(reference, BLOB)) == DATA
    assert clock.slept == [6.0]


# Redirects and authentication.


@pytest.fixture
def cdn(registry: FakeRegistry, other: FakeRegistry) -> FakeRegistry:
    """``registry`` sends blobs to ``other``, with a signature that counts up."""
    other.add_blob(DATA)
    numbers = iter(range(1, 100))

    def send_there(request, answer):  # type: ignore[no-untyped-def]
        proper = answer(request)
        if proper.status >= 400:
            return proper
        return redirect(f"{other.url}{request.target}?signature={next(numbers)}")

    registry.always("GET", "/blobs/", send_there)
    return other


def test_the_cdn_learns_nothing(
    registry: FakeRegistry, cdn: FakeRegistry, reference: Reference, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth({"me": "secret"})
    client = connect(known({registry.address: Credential("me", "secret")}))
    assert read(client.open_blob(reference, BLOB, 1000)) == DATA[1000:]
    assert dict(cdn.requests[0].headers) == {
        "host": cdn.address,
        "user-agent": "imgpull",
        "accept-encoding": "identity",
        "accept": "*/*",
        "range": "bytes=1000-",
    }


def test_resuming_begins_at_the_registry_not_at_the_old_link(
    registry: FakeRegistry, cdn: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    client = connect()
    for offset in (0, 1000):
        read(client.open_blob(reference, BLOB, offset))
    assert [request.query for request in cdn.requests] == [{"signature": "1"}, {"signature": "2"}]


@pytest.mark.parametrize("status", [401, 403])
def test_a_link_that_ran_out_is_fetched_anew_once(
    registry: FakeRegistry, cdn: FakeRegistry, reference: Reference, connect: Connect, status: int
) -> None:
    cdn.script("GET", "/blobs/", Reply(status, body=b"<Error>Request has expired</Error>"))
    assert read(connect().open_blob(reference, BLOB, 1000)) == DATA[1000:]
    assert (registry.count(), cdn.count()) == (2, 2)


def test_a_fresh_link_that_is_refused_is_final(
    registry: FakeRegistry, cdn: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    cdn.always("GET", "/blobs/", Reply(403))
    with pytest.raises(UnauthorizedError, match=f"{cdn.address}: ") as caught:
        connect().open_blob(reference, BLOB)
    assert not caught.value.retryable
    assert (registry.count(), cdn.count()) == (2, 2)
    assert "signature" not in str(caught.value)


def test_a_fresh_link_may_ignore_the_range(
    registry: FakeRegistry, cdn: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    cdn.script("GET", "/blobs/", Reply(403), Reply(416), ignoring_range)
    assert read(connect().open_blob(reference, BLOB, 1000)) == DATA


def test_a_token_that_ran_out_in_mid_pull_is_renewed(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.auth = BearerAuth()
    client = connect()
    assert read(client.open_blob(reference, BLOB)) == DATA
    registry.auth.revoke()
    assert read(client.open_blob(reference, BLOB)) == DATA
    assert [request.status for request in registry.seen("GET", "/blobs/")] == [401, 200, 401, 200]
    assert registry.tokens == 2


# Hosts.


class Two:
    """A mirror before the origin, for whatever registry."""

    def __init__(self, mirror: FakeRegistry, origin: FakeRegistry) -> None:
        self.hosts = [
            Host(origin.address, "http", mirror.address, namespace=origin.address),
            *DefaultHosts().hosts_for(origin.address),
        ]

    def hosts_for(self, registry: str) -> list[Host]:
        return self.hosts


def test_a_mirror_without_the_blob(
    registry: FakeRegistry, other: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    blob = connect(hosts=Two(other, registry)).open_blob(reference, BLOB)
    assert blob.host.address == registry.address
    assert read(blob) == DATA
    assert other.count() == 1


def test_a_host_can_be_avoided_as_long_as_another_is_left(
    registry: FakeRegistry, other: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    other.add_blob(DATA)
    client = connect(hosts=Two(other, registry))
    for avoid, used in [((), other), ({other.address}, registry), ({other.address, registry.address}, other)]:
        blob = client.open_blob(reference, BLOB, avoid=avoid)
        assert blob.host.address == used.address
        assert read(blob) == DATA


# Stopping.


def test_shutdown_from_another_thread(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    gate = registry.block("/blobs/", at=100_000)
    blob = connect().open_blob(reference, BLOB)
    worker = Worker(lambda: read(blob))
    worker.start()
    gate.wait_reached()
    blob.shutdown()
    assert isinstance(worker.done().error, PullCancelledError)


def test_cancel_works_until_the_end(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    gate, cancel, client = Gate(), Cancellation(), connect()
    registry.script("GET", "/blobs/", stalled(gate, 100_000))
    blob = client.open_blob(reference, BLOB, 0, cancel)
    worker = Worker(lambda: read(blob))
    worker.start()
    gate.wait_reached()
    cancel.cancel()
    assert isinstance(worker.done().error, PullCancelledError)
    assert not cancel._callbacks


def test_a_blob_nobody_reads_leaves_nothing_behind(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    cancel = Cancellation()
    connect().open_blob(reference, BLOB, 0, cancel).close()
    for bad in (replace(BLOB, size_bytes=5), replace(BLOB, digest=Digest("sha256:" + "0" * 64))):
        with pytest.raises((SizeMismatchError, NotFoundError)):
            connect().open_blob(reference, bad, 0, cancel)
    assert not cancel._callbacks
