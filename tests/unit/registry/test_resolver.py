"""From a tag to a digest: one HEAD, or a GET where HEAD doesn't say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fakes import images
from fakes.registry import FakeRegistry, Reply, refused
from imgpull.errors import (
    NotFoundError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    UnauthorizedError,
)
from imgpull.reference import Reference
from imgpull.registry import Registry

Connect = Callable[..., Registry]


@pytest.fixture
def reference(registry: FakeRegistry, image: images.Image) -> Reference:
    return Reference.parse(registry.add(image, "library/redis", "7.2"))


def methods(registry: FakeRegistry) -> list[str]:
    return [request.method for request in registry.requests]


def test_head_is_enough(registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect) -> None:
    found = connect().resolve(reference)
    assert (found.digest, found.media_type, found.size_bytes) == (image.digest, image.media_type, len(image.raw))
    assert found.raw is None
    assert methods(registry) == ["HEAD"]
    assert registry.requests[0].headers["accept"] == (
        "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
        "application/vnd.docker.distribution.manifest.list.v2+json, "
        "application/vnd.docker.distribution.manifest.v2+json"
    )


def test_a_digest_asks_nobody(registry: FakeRegistry, image: images.Image, connect: Connect) -> None:
    reference = Reference.parse(f"{registry.address}/library/redis:7.2@{image.digest}")
    assert connect().resolve(reference).digest == image.digest
    assert registry.count() == 0


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 501])
def test_a_head_that_is_refused_is_asked_as_get(
    registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect, status: int
) -> None:
    registry.always("HEAD", "", Reply(status))
    sent: list[tuple[str, int]] = []
    found = connect().resolve(reference, on_request=lambda *what: sent.append(what))
    assert (found.digest, found.raw, found.media_type) == (image.digest, image.raw, image.media_type)
    assert methods(registry) == ["HEAD", "GET"]
    assert sent == [(registry.address, 0)]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"docker-content-digest": ""},
        {"docker-content-digest": "sha256:short"},
        {"docker-content-digest": "blake3:" + "a" * 64},
        {"docker-content-digest": "../../etc/passwd"},
        {"content-type": "text/html"},
        {"content-type": ""},
        {"content-length": "-1"},
        {"content-length": "9" * 30},
    ],
)
def test_a_head_that_does_not_say_is_asked_as_get(
    registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect, headers: dict[str, str]
) -> None:
    proper = {"content-type": image.media_type, "content-length": str(len(image.raw))}
    if headers:
        proper["docker-content-digest"] = image.digest
    registry.always("HEAD", "", Reply(200, {**proper, **headers}))
    assert connect().resolve(reference).digest == image.digest
    assert methods(registry) == ["HEAD", "GET"]


def test_the_digest_of_a_get_is_the_bodys(registry: FakeRegistry, image: images.Image, connect: Connect) -> None:
    reference = Reference.parse(registry.add(image))
    registry.always("HEAD", "", Reply(405))
    registry.always(
        "GET",
        "/manifests/",
        lambda request, answer: answer(request).with_headers(Docker_Content_Digest="sha256:" + "0" * 64),
    )
    assert connect().resolve(reference).digest == image.digest


def test_a_missing_tag_is_told_in_the_registrys_words(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    missing = Reference.parse(f"{registry.address}/library/redis:gone")
    with pytest.raises(NotFoundError, match="manifest library/redis:gone not found .*manifest unknown: gone") as caught:
        connect().resolve(missing)
    assert (caught.value.code, caught.value.status) == ("MANIFEST_UNKNOWN", 404)
    assert methods(registry) == ["HEAD", "GET"]


@pytest.mark.parametrize(
    ("reply", "kind", "requests"),
    [
        (Reply(500), RegistryUnavailableError, 5),
        (Reply(503), RegistryUnavailableError, 5),
        (Reply(408), RegistryUnavailableError, 5),
        (Reply(429), RateLimitedError, 5),
        (Reply(429, {"Retry-After": "1000000000"}), RateLimitedError, 1),
        (Reply(401), UnauthorizedError, 1),
        (Reply(418), RegistryUnavailableError, 1),
    ],
)
def test_other_answers_are_final_or_tried_again_as_head(
    registry: FakeRegistry,
    reference: Reference,
    connect: Connect,
    reply: Reply,
    kind: type[RegistryError],
    requests: int,
) -> None:
    registry.always("HEAD", "", reply)
    with pytest.raises(kind):
        connect().resolve(reference)
    assert methods(registry) == ["HEAD"] * requests


def test_a_head_that_fails_once_is_tried_again(
    registry: FakeRegistry, reference: Reference, image: images.Image, connect: Connect, clock  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.script("HEAD", "", Reply(503, {"Retry-After": "9"}), refused(429, "TOOMANYREQUESTS"))
    assert connect().resolve(reference).digest == image.digest
    assert clock.slept == [10.0, 0.5]
