"""Manifests, tags, and the order of hosts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from fakes import images
from fakes.registry import (
    RESET,
    BasicAuth,
    BearerAuth,
    FakeRegistry,
    Gate,
    Reply,
    corrupted,
    redirect,
    stalled,
    truncated,
)
from fakes.threads import Worker
from imgpull.errors import (
    DigestMismatchError,
    InsecureTransportError,
    InvalidImageError,
    NotFoundError,
    PullCancelledError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    UnauthorizedError,
)
from imgpull.limits import Limits
from imgpull.locking import Cancellation
from imgpull.oci import Descriptor, Digest
from imgpull.reference import Reference
from imgpull.registry import Credential, Host, Registry

Connect = Callable[..., Registry]


@dataclass
class Listed:
    """The given hosts, for whatever registry."""

    hosts: list[Host]

    def hosts_for(self, registry: str) -> list[Host]:
        return self.hosts


@pytest.fixture
def reference(registry: FakeRegistry, image: images.Image) -> Reference:
    return Reference.parse(registry.add(image, "library/redis", "7.2"))


def host(server: FakeRegistry, registry: str, mirror: bool = False, **fields: object) -> Host:
    namespace = registry if mirror else None
    return replace(Host(registry, "http", server.address, namespace=namespace), **fields)  # type: ignore[arg-type]


@pytest.fixture
def pair(registry: FakeRegistry, other: FakeRegistry) -> Listed:
    """``other`` as a mirror in front of ``registry``."""
    return Listed([host(other, registry.address, mirror=True), host(registry, registry.address)])


# Manifests.


def test_a_manifest_by_tag_and_by_digest(
    registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect
) -> None:
    client, sent = connect(), []
    for digest in (None, Digest(image.digest)):
        raw, content_type = client.get_manifest(reference, digest, on_request=lambda *what: sent.append(what))
        assert (raw, content_type) == (image.raw, image.media_type)
    assert [request.path.rpartition("/")[2] for request in registry.requests] == ["7.2", image.digest]
    assert sent == [(registry.address, 0)] * 2


def test_a_manifest_by_sha512(
    registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect
) -> None:
    digest = Digest("sha512:" + hashlib.sha512(image.raw).hexdigest())
    registry.always("GET", str(digest), Reply(200, {"Content-Type": "a/b"}, image.raw))
    assert connect().get_manifest(reference, digest) == (image.raw, "a/b")
    registry.script("GET", "sha512", Reply(200, {"Content-Type": "a/b"}, image.raw + b" "))
    with pytest.raises(DigestMismatchError):
        connect(attempts=1).get_manifest(reference, Digest("sha512:" + "0" * 128))


def test_wrong_bytes_are_never_returned(
    registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect
) -> None:
    registry.always("GET", "/manifests/", corrupted())
    with pytest.raises(DigestMismatchError, match="changed on the way or in the registry") as caught:
        connect().get_manifest(reference, Digest(image.digest))
    assert caught.value.expected == image.digest
    assert caught.value.actual != image.digest
    assert registry.count("GET") == 1


def test_a_reference_with_a_digest_is_verified_unasked(
    registry: FakeRegistry, image: images.Image, connect: Connect
) -> None:
    registry.add(image)
    reference = Reference.parse(f"{registry.address}/library/fake:latest@{image.digest}")
    registry.always("GET", "/manifests/", corrupted())
    with pytest.raises(DigestMismatchError):
        connect().get_manifest(reference)
    assert registry.requests[0].path.endswith(image.digest)


@pytest.mark.parametrize("size", [100, 101])
def test_a_manifest_has_a_limit(registry: FakeRegistry, connect: Connect, size: int) -> None:
    raw = b"x" * size
    reference = Reference.parse(registry.add_manifest(raw, "a/b"))
    client = connect(limits=Limits(manifest_bytes=100))
    if size > 100:
        with pytest.raises(InvalidImageError, match="larger than 100 bytes; raise Limits.manifest_bytes"):
            client.get_manifest(reference)
    else:
        assert client.get_manifest(reference).raw == raw


@pytest.mark.parametrize("answer", [Reply(500), Reply(before=(RESET,)), truncated(10), Reply(504), Reply(429)])
@pytest.mark.parametrize(("failures", "succeeds"), [(1, True), (4, True), (5, False)])
def test_five_attempts(
    registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect, answer: Reply,
    failures: int, succeeds: bool,
) -> None:  # fmt: skip
    registry.script("GET", "/manifests/", *[answer] * failures)
    client = connect()
    if succeeds:
        assert client.get_manifest(reference, Digest(image.digest)).raw == image.raw
    else:
        with pytest.raises((RegistryUnavailableError, RateLimitedError)):
            client.get_manifest(reference, Digest(image.digest))
    assert registry.count("GET") == min(failures + 1, 5)


def test_a_refused_connection_is_not_tried_again(
    reference: Reference, registry: FakeRegistry, connect: Connect, clock
) -> None:  # type: ignore[no-untyped-def]
    registry.close()
    with pytest.raises(RegistryUnavailableError, match="connection refused"):
        connect().get_manifest(reference)
    assert clock.slept == []


def test_a_content_encoding_is_refused(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.always("*", "/manifests/", lambda request, answer: answer(request).with_headers(Content_Encoding="gzip"))
    with pytest.raises(RegistryUnavailableError, match="Content-Encoding nobody asked for"):
        connect().get_manifest(reference)
    assert registry.count("GET") == 1


def test_a_redirected_manifest(
    registry: FakeRegistry, other: FakeRegistry, reference: Reference, image: images.Image, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BasicAuth({"me": "secret"})
    other.add(image, "library/redis", "7.2")
    registry.always(
        "GET",
        "/manifests/",
        lambda request, answer: (
            redirect(f"{other.url}{request.target}") if "authorization" in request.headers else answer(request)
        ),
    )
    client = connect(known({registry.address: Credential("me", "secret")}))
    assert client.get_manifest(reference, Digest(image.digest)).raw == image.raw
    assert "authorization" not in other.requests[0].headers


def test_a_challenge_of_a_redirects_target_is_not_answered(
    registry: FakeRegistry, other: FakeRegistry, reference: Reference, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    other.auth = BasicAuth({"me": "secret"})
    registry.always("*", "/manifests/", redirect(f"{other.url}/v2/x/manifests/y"))
    credentials = known({registry.address: Credential("me", "secret"), other.address: Credential("me", "secret")})
    with pytest.raises(UnauthorizedError, match=f"{other.address}: access .* sent us there") as caught:
        connect(credentials).resolve(reference)
    assert caught.value.registry == other.address
    assert all("authorization" not in request.headers for request in other.requests)
    assert credentials.asked == []


def test_cancel(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    gate, cancel, client = Gate(), Cancellation(), connect()
    registry.always("GET", "/manifests/", stalled(gate, 5))
    worker = Worker(lambda: client.get_manifest(reference, None, cancel))
    worker.start()
    gate.wait_reached()
    cancel.cancel()
    assert isinstance(worker.done().error, PullCancelledError)
    assert registry.count() == 1


# Hosts.


def test_a_mirror_is_asked_first_and_told_for_whom(
    registry: FakeRegistry,
    other: FakeRegistry,
    pair: Listed,
    reference: Reference,
    image: images.Image,
    connect: Connect,
) -> None:  # fmt: skip
    other.add(image, "library/redis", "7.2")
    client = connect(hosts=pair)
    client.resolve(reference)
    client.get_manifest(reference, Digest(image.digest))
    assert [request.query for request in other.requests] == [{"ns": registry.address}] * 2
    assert registry.count() == 0


@pytest.mark.parametrize(
    ("answer", "attempts"),
    [
        (Reply(404), 1),
        (Reply(403), 1),
        (Reply(500), 2),
        (Reply(before=(RESET,)), 2),
        (Reply(429, {"Retry-After": "100"}), 1),
        (corrupted(), 1),
        (redirect("http://169.254.169.254/"), 1),
        (Reply(401, {"WWW-Authenticate": 'Bearer realm="http://169.254.169.254/"'}), 1),
    ],
)
def test_whatever_a_mirror_does_the_origin_is_asked(
    registry: FakeRegistry, other: FakeRegistry, pair: Listed, reference: Reference, image: images.Image,
    connect: Connect, answer: Reply, attempts: int,
) -> None:  # fmt: skip
    other.add(image, "library/redis", "7.2")
    other.always("GET", "/manifests/", answer)
    assert connect(hosts=pair).get_manifest(reference, Digest(image.digest)).raw == image.raw
    assert (other.count("GET"), registry.count("GET")) == (attempts, 1)


def test_a_mirror_that_is_down(
    registry: FakeRegistry,
    other: FakeRegistry,
    pair: Listed,
    reference: Reference,
    image: images.Image,
    connect: Connect,
) -> None:  # fmt: skip
    other.close()
    assert connect(hosts=pair).get_manifest(reference, Digest(image.digest)).raw == image.raw


@pytest.mark.parametrize(
    ("mirror", "origin", "kind"),
    [
        (404, 404, NotFoundError),
        (500, 404, RegistryUnavailableError),
        (404, 500, RegistryUnavailableError),
        (403, 404, UnauthorizedError),
        (500, 403, UnauthorizedError),
    ],
)
def test_not_found_says_less_than_any_other_error(
    registry: FakeRegistry, other: FakeRegistry, pair: Listed, reference: Reference, connect: Connect,
    mirror: int, origin: int, kind: type[RegistryError],
) -> None:  # fmt: skip
    other.always("GET", "", Reply(mirror))
    registry.always("GET", "", Reply(origin))
    with pytest.raises(kind):
        connect(hosts=pair).get_manifest(reference)


def test_a_mirror_that_may_not_resolve_is_not_asked_for_tags(
    registry: FakeRegistry,
    other: FakeRegistry,
    pair: Listed,
    reference: Reference,
    image: images.Image,
    connect: Connect,
) -> None:  # fmt: skip
    other.add(image, "library/redis", "7.2")
    pair.hosts[0] = replace(pair.hosts[0], capabilities=frozenset({"pull"}))
    client = connect(hosts=pair)
    client.resolve(reference)
    assert (other.count(), registry.count()) == (0, 1)
    client.get_manifest(reference, Digest(image.digest))
    assert (other.count(), registry.count()) == (1, 1)


def test_no_host_that_may(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    hosts = Listed([replace(host(registry, registry.address), capabilities=frozenset({"pull"}))])
    with pytest.raises(RegistryUnavailableError, match="no host is configured that may resolve"):
        connect(hosts=hosts).resolve(reference)


def test_the_registrys_credentials_do_not_go_to_a_mirror(
    registry: FakeRegistry, other: FakeRegistry, pair: Listed, reference: Reference, image: images.Image,
    connect: Connect, known,  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    other.add(image, "library/redis", "7.2")
    other.auth = registry.auth = BearerAuth({"me": "secret"}, anonymous=False)
    credentials = known({registry.address: Credential("me", "secret")})
    assert connect(credentials, pair).get_manifest(reference, Digest(image.digest)).raw == image.raw
    assert credentials.asked == [other.address, registry.address]
    assert b"secret" not in b"".join(request.body for request in other.requests)
    assert all("authorization" not in request.headers for request in other.requests)


def test_a_base_path(registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect) -> None:
    registry.always("GET", "/proxy/v2/library/redis/manifests/7.2", Reply(200, body=image.raw))
    hosts = Listed([host(registry, registry.address, base_path="/proxy/v2")])
    assert connect(hosts=hosts).get_manifest(reference).raw == image.raw


# Tags.


def test_tags_page_by_page(registry: FakeRegistry, image: images.Image, connect: Connect) -> None:
    names = [f"v{number:02}" for number in range(25)]
    for name in names:
        reference = Reference.parse(registry.add(image, "a/b", name))
    registry.script("GET", "/tags/", lambda request, answer: answer(replace(request, target="/v2/a/b/tags/list?n=10")))
    assert list(connect().tags(reference)) == names
    assert [request.query for request in registry.requests] == [
        {"n": "1000"},
        {"n": "10", "last": "v09"},
        {"n": "10", "last": "v19"},
    ]


def test_tags_of_an_unknown_repository(registry: FakeRegistry, connect: Connect) -> None:
    with pytest.raises(NotFoundError, match="NAME_UNKNOWN"):
        list(connect().tags(Reference.parse(f"{registry.address}/a/b")))


@pytest.mark.parametrize(
    "link",
    [
        "<http://127.0.0.9:1/v2/a/b/tags/list?last=x>; rel=next",
        "</v2/other/tags/list?last=x>; rel=next",
        "<https://evil.example/>; rel=next",
        "<file:///etc/passwd>; rel=next",
        "<http://[>; rel=next",
    ],
)
def test_a_next_page_elsewhere_is_refused(registry: FakeRegistry, connect: Connect, link: str) -> None:
    registry.always("GET", "/tags/", Reply(200, {"Link": link}, b'{"tags":["a"]}'))
    with pytest.raises(InsecureTransportError, match="next page"):
        list(connect().tags(Reference.parse(f"{registry.address}/a/b")))
    assert registry.count() == 1


@pytest.mark.parametrize("link", ['</v2/a/b/tags/list?n=1>; rel="next"', "<?n=1&last=x>; rel=next"])
def test_pages_in_a_circle_end(registry: FakeRegistry, connect: Connect, link: str) -> None:
    registry.always("GET", "/tags/", Reply(200, {"Link": link}, b'{"tags":["a"]}'))
    assert list(connect().tags(Reference.parse(f"{registry.address}/a/b"))) == ["a", "a"]


@pytest.mark.parametrize(("body", "tags"), [(b'{"tags":null}', []), (b'{"tags":["ok","a b","\\u001b[2J",5]}', ["ok"])])
def test_what_is_no_tag_is_left_out(registry: FakeRegistry, connect: Connect, body: bytes, tags: list[str]) -> None:
    registry.always("GET", "/tags/", Reply(200, body=body))
    assert list(connect().tags(Reference.parse(f"{registry.address}/a/b"))) == tags


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags":"a"}', b'{"tags":{}}', b"<html>"])
def test_no_list_of_tags(registry: FakeRegistry, connect: Connect, body: bytes) -> None:
    registry.always("GET", "/tags/", Reply(200, body=body))
    with pytest.raises(RegistryUnavailableError, match="no list of tags"):
        list(connect().tags(Reference.parse(f"{registry.address}/a/b")))


# Small blobs.


def test_read_blob(registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect) -> None:
    config = Descriptor("a/b", Digest(image.config_digest), len(image.config))
    client = connect(limits=Limits(config_bytes=1000))
    registry.script("GET", "/blobs/", truncated(10), Reply(503))
    assert client.read_blob(reference, config) == image.config
    assert registry.count("GET", "/blobs/") == 3
    registry.always("GET", "/blobs/", corrupted())
    with pytest.raises(DigestMismatchError):
        client.read_blob(reference, config)
    with pytest.raises(InvalidImageError, match="raise Limits.config_bytes"):
        client.read_blob(reference, replace(config, size_bytes=1001))
