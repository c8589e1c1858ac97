"""Basic and bearer: what is asked of whom, how often, and what nobody gets."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fakes import images
from fakes.registry import BasicAuth, BearerAuth, FakeRegistry, Gate, Reply, held, redirect, refused, stalled
from fakes.threads import Worker, until
from imgpull.errors import (
    InsecureTransportError,
    PullCancelledError,
    RateLimitedError,
    RegistryUnavailableError,
    UnauthorizedError,
)
from imgpull.locking import Cancellation
from imgpull.reference import Reference
from imgpull.registry import Credential, Registry

Connect = Callable[..., Registry]
ME = Credential("me", "secret")


@pytest.fixture
def reference(registry: FakeRegistry, image: images.Image) -> Reference:
    return Reference.parse(registry.add(image, "library/redis", "7.2"))


def shape(registry: FakeRegistry) -> list[tuple[str, str, int]]:
    """The log: method, last part of the path, status."""
    return [(request.method, request.path.rpartition("/")[2], request.status) for request in registry.requests]


def waiting(client: Registry) -> int:
    """How many threads wait for a token that another one fetches."""
    keys = client._client._exchange._authorizer._tokens._keys
    return sum(keys.waiters(key) for key in list(keys._queues))


# Bearer.


def test_an_anonymous_token(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.auth = BearerAuth(service="fake service")
    client = connect()
    client.resolve(reference)
    client.get_manifest(reference)
    assert shape(registry) == [("HEAD", "7.2", 401), ("GET", "token", 200), ("HEAD", "7.2", 200), ("GET", "7.2", 200)]
    asked = registry.requests[1]
    assert asked.query == {"service": "fake service", "scope": "repository:library/redis:pull"}
    assert "authorization" not in asked.headers
    assert registry.requests[2].headers["authorization"] == "Bearer fake-token-1"


def test_a_password_is_posted(registry: FakeRegistry, reference: Reference, connect: Connect, known) -> None:  # type: ignore[no-untyped-def]
    registry.auth = BearerAuth({"me": "secret"}, anonymous=False, name="access_token")
    credentials = known({registry.address: ME})
    connect(credentials).resolve(reference)
    (asked,) = registry.seen("*", "/token")
    assert asked.method == "POST"
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.form == {
        "grant_type": "password",
        "username": "me",
        "password": "secret",
        "service": "fake",
        "scope": "repository:library/redis:pull",
        "client_id": "imgpull",
    }
    assert credentials.asked == [registry.address]


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_where_post_is_not_known_get_is_tried(
    registry: FakeRegistry, reference: Reference, connect: Connect, known, status: int  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth({"me": "secret"}, anonymous=False, post_status=status)
    connect(known({registry.address: ME})).resolve(reference)
    first, second = registry.seen("*", "/token")
    assert (first.method, second.method) == ("POST", "GET")
    assert second.headers["authorization"] == ME.basic
    assert second.query["scope"] == "repository:library/redis:pull"


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [
        (403, UnauthorizedError, 1),
        (402, UnauthorizedError, 1),
        (301, InsecureTransportError, 1),
        (500, RegistryUnavailableError, 5),
        (503, RegistryUnavailableError, 5),
        (429, RateLimitedError, 5),
        (501, UnauthorizedError, 1),
    ],
)
def test_other_answers_to_post_are_taken_at_their_word(
    registry: FakeRegistry, reference: Reference, connect: Connect, known,  # type: ignore[no-untyped-def]
    status: int, kind: type[Exception], requests: int,
) -> None:  # fmt: skip
    registry.auth = BearerAuth({"me": "secret"}, post_status=status)
    with pytest.raises(kind):
        connect(known({registry.address: ME})).resolve(reference)
    # One loop: a failed token is a failed attempt of the request that needed it, and no loop of its own.
    assert [request.method for request in registry.seen("*", "/token")] == ["POST"] * requests


def test_an_identity_token_is_exchanged(registry: FakeRegistry, reference: Reference, connect: Connect, known) -> None:  # type: ignore[no-untyped-def]
    registry.auth = BearerAuth(identity_tokens=frozenset({"refresh"}), anonymous=False)
    connect(known({registry.address: Credential(identity_token="refresh")})).resolve(reference)
    (asked,) = registry.seen("*", "/token")
    assert (asked.form["grant_type"], asked.form["refresh_token"]) == ("refresh_token", "refresh")
    assert "username" not in asked.form


def test_a_refused_identity_token_is_not_shown_in_another_way(
    registry: FakeRegistry, reference: Reference, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth(anonymous=False)
    with pytest.raises(UnauthorizedError):
        connect(known({registry.address: Credential("me", "", "stale")})).resolve(reference)
    assert [request.method for request in registry.seen("*", "/token")] == ["POST"]


def test_a_registry_token_is_used_as_it_is(
    registry: FakeRegistry, reference: Reference, connect: Connect, known
) -> None:  # type: ignore[no-untyped-def]
    registry.auth = BearerAuth()
    registry.auth.accept("ready-made", "library/redis")
    connect(known({registry.address: Credential(registry_token="ready-made")})).resolve(reference)
    assert registry.tokens == 0


def test_a_registry_token_that_is_refused_is_not_sent_twice(
    registry: FakeRegistry, reference: Reference, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth()
    with pytest.raises(UnauthorizedError, match="log in anew"):
        connect(known({registry.address: Credential(registry_token="stale")})).resolve(reference)
    assert shape(registry) == [("HEAD", "7.2", 401), ("HEAD", "7.2", 401)]


def test_32_threads_fetch_one_token(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.auth = BearerAuth()
    gate = registry.block("/token")
    client = connect()
    workers = [Worker(lambda: client.resolve(reference), f"asker-{number}") for number in range(32)]
    for worker in workers:
        worker.start()
    gate.wait_reached()
    until(lambda: waiting(client) == 31, "31 to wait")
    gate.open()
    assert all(worker.done().error is None for worker in workers)
    assert registry.tokens == 1
    assert registry.count("HEAD", status=200) == 32


def test_32_threads_share_one_refusal(registry: FakeRegistry, reference: Reference, connect: Connect, known) -> None:  # type: ignore[no-untyped-def]
    registry.auth = BearerAuth({"me": "other"}, anonymous=False, post_status=403)
    gate, client = Gate(), connect(known({registry.address: ME}))
    registry.script("POST", "/token", held(gate))
    workers = [Worker(lambda: client.resolve(reference), f"asker-{number}") for number in range(32)]
    for worker in workers:
        worker.start()
    gate.wait_reached()
    until(lambda: waiting(client) == 31, "31 to wait")
    gate.open()
    assert all(isinstance(worker.done().error, UnauthorizedError) for worker in workers)
    assert registry.tokens == 1  # a wrong password is shown once, not 32 times until the account is locked
    registry.auth = BearerAuth({"me": "secret"}, anonymous=False)
    client.resolve(reference)  # and the refusal is not remembered


def test_cancelling_who_fetches_the_token_costs_nobody_else(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.auth = BearerAuth()
    gate, cancel, client = registry.block("/token"), Cancellation(), connect()
    leader = Worker(lambda: client.resolve(reference, cancel))
    leader.start()
    gate.wait_reached()
    followers = [Worker(lambda: client.resolve(reference)) for _ in range(4)]
    for worker in followers:
        worker.start()
    until(lambda: waiting(client) == 4, "the others to wait")
    cancel.cancel()
    assert isinstance(leader.done().error, PullCancelledError)
    assert all(worker.done().error is None for worker in followers)
    assert registry.tokens == 2


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (300, 300),
        (None, 60),
        (5, 60),
        (0, 60),
        (-1, 60),
        ("300", 60),
        (True, 60),
        (1e300, 86400),
        (10**400, 86400),
        ([], 60),
    ],
)
def test_a_token_is_used_until_it_runs_out(
    registry: FakeRegistry, reference: Reference, connect: Connect, clock, expires_in: object, seconds: float  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth(expires_in=expires_in)
    client = connect()
    client.resolve(reference)
    clock.now += seconds - 0.5
    client.resolve(reference)
    assert registry.tokens == 1
    clock.now += 0.5
    client.resolve(reference)
    assert registry.tokens == 2
    assert registry.count("HEAD", status=401) == 1  # known to have run out, so not even tried


def test_a_revoked_token_is_fetched_again_once(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.auth = BearerAuth()
    client = connect()
    client.resolve(reference)
    registry.auth.revoke()
    registry.forget()
    client.resolve(reference)
    assert shape(registry) == [("HEAD", "7.2", 401), ("GET", "token", 200), ("HEAD", "7.2", 200)]


def test_32_threads_with_a_revoked_token_fetch_one(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.auth = BearerAuth()
    client = connect()
    client.resolve(reference)
    registry.auth.revoke()
    gate = registry.block("/token")
    workers = [Worker(lambda: client.resolve(reference), f"asker-{number}") for number in range(32)]
    for worker in workers:
        worker.start()
    until(lambda: registry.count("HEAD", status=401) == 1 + 32, "32 to be refused")
    gate.open()
    assert all(worker.done().error is None for worker in workers)
    assert registry.tokens == 2


def test_a_registry_that_takes_no_token_is_asked_twice_and_no_more(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.auth = BearerAuth()
    registry.always("HEAD", "", Reply(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'}))
    with pytest.raises(UnauthorizedError, match="no credentials for it; log in with: imgpull login") as caught:
        connect().resolve(reference)
    assert shape(registry) == [("HEAD", "7.2", 401), ("GET", "token", 200), ("HEAD", "7.2", 401)]
    assert caught.value.status == 401


def test_the_scope_is_ours_whatever_the_challenge_wants(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.auth = BearerAuth(
        challenge_extra=',scope="repository:other/private:pull,push,delete",error="insufficient_scope"'
    )
    connect().resolve(reference)
    (asked,) = registry.seen("*", "/token")
    assert asked.query["scope"] == "repository:library/redis:pull"


def test_each_repository_has_a_token_of_its_own(registry: FakeRegistry, image: images.Image, connect: Connect) -> None:
    registry.auth = BearerAuth()
    client = connect()
    for name in ("a/one", "a/two", "a/one"):
        client.resolve(Reference.parse(registry.add(image, name)))
    assert [request.query["scope"] for request in registry.seen("*", "/token")] == [
        "repository:a/one:pull",
        "repository:a/two:pull",
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"not json", b'{"token":""}', b'{"token":5}', b'{"token":"a\\r\\nX-Evil: b"}',
     b'{"token":"a b"}', b'{"token":"\\u00e4"}', b'{"token":null}', b"[" * 100_000],
)  # fmt: skip
def test_an_answer_without_a_usable_token(
    registry: FakeRegistry, reference: Reference, connect: Connect, body: bytes
) -> None:
    registry.auth = BearerAuth()
    registry.always("GET", "/token", Reply(200, body=body))
    with pytest.raises(UnauthorizedError, match="without a token"):
        connect().resolve(reference)
    assert registry.tokens == 1


def test_an_answer_beyond_the_limit(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.auth = BearerAuth()
    registry.always("GET", "/token", Reply(200, body=json.dumps({"token": "a", "pad": "x" * (1 << 20)}).encode()))
    with pytest.raises(RegistryUnavailableError, match="more than a token"):
        connect().resolve(reference)
    assert registry.tokens == 1


def test_a_404_of_the_token_server_says_nothing_about_the_image(
    registry: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.auth = BearerAuth()
    registry.always("GET", "/token", Reply(404))
    with pytest.raises(UnauthorizedError, match="a token from http://127.0.0.1:[0-9]+/token"):
        connect().resolve(reference)


# Realms.


@pytest.mark.parametrize(
    "realm",
    [
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "127.0.0.1:8080",
        "http://0.0.0.0:80/token",
        "http://user:pass@127.0.0.1:1/token",
        "ftp://127.0.0.1/token",
        "http://[::]/token",
        "gopher://x",
        "//127.0.0.1/token",
    ],
)
@pytest.mark.parametrize("credential", [None, ME])
def test_a_realm_that_must_not_be_asked(
    registry: FakeRegistry, reference: Reference, connect: Connect, known, realm: str, credential: Credential | None  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth(realm=realm)
    with pytest.raises(InsecureTransportError, match="token server"):
        connect(known({registry.address: credential} if credential else {})).resolve(reference)
    assert registry.count() == 1


def test_a_realm_of_another_site_gets_no_credentials(
    registry: FakeRegistry, other: FakeRegistry, reference: Reference, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth(realm=f"{other.url}/token")
    with pytest.raises(InsecureTransportError, match="another site, and would get your credentials"):
        connect(known({registry.address: ME})).resolve(reference)
    assert other.count() == 0


def test_a_realm_of_another_site_may_be_asked_anonymously(
    registry: FakeRegistry, other: FakeRegistry, reference: Reference, connect: Connect
) -> None:
    registry.auth = other.auth = BearerAuth(realm=f"{other.url}/token")
    connect().resolve(reference)
    assert other.tokens == 1
    assert "authorization" not in other.requests[0].headers


def test_a_realm_keeps_the_query_it_came_with(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.auth = BearerAuth(realm=f"{registry.url}/token?tenant=1#part")
    connect().resolve(reference)
    assert registry.seen("*", "/token")[0].query == {
        "tenant": "1",
        "service": "fake",
        "scope": "repository:library/redis:pull",
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_of_the_token_server_is_refused(
    registry: FakeRegistry, other: FakeRegistry, reference: Reference, connect: Connect, known, method: str  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth({"me": "secret"})
    registry.always(method, "/token", redirect(f"{other.url}/token"))
    with pytest.raises(InsecureTransportError, match="redirect of its token server"):
        connect(known({registry.address: ME} if method == "POST" else {})).resolve(reference)
    assert other.count() == 0


# Basic.


def test_basic(registry: FakeRegistry, reference: Reference, connect: Connect, known) -> None:  # type: ignore[no-untyped-def]
    registry.auth = BasicAuth({"me": "sécret"})
    client = connect(known({registry.address: Credential("me", "sécret")}))
    client.resolve(reference)
    client.resolve(reference)
    assert shape(registry) == [("HEAD", "7.2", 401), ("HEAD", "7.2", 200), ("HEAD", "7.2", 200)]


def test_a_wrong_password_is_shown_once(registry: FakeRegistry, reference: Reference, connect: Connect, known) -> None:  # type: ignore[no-untyped-def]
    registry.auth = BasicAuth({"me": "other"})
    client = connect(known({registry.address: ME}))
    with pytest.raises(UnauthorizedError, match="log in anew"):
        client.resolve(reference)
    assert registry.count() == 2
    with pytest.raises(UnauthorizedError):
        client.resolve(reference)
    assert registry.count() == 3  # sent unasked this time, refused, and nothing else left to send


def test_no_credentials_for_basic(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.auth = BasicAuth({"me": "secret"})
    with pytest.raises(UnauthorizedError, match="no credentials for it; log in with: imgpull login 127.0.0.1"):
        connect().resolve(reference)
    assert registry.count() == 1


def test_a_failed_helper_is_named_when_it_matters(
    registry: FakeRegistry, reference: Reference, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    client = connect(known({registry.address: Credential(problem="docker-credential-x is not on PATH")}))
    registry.auth = BearerAuth()
    client.resolve(reference)  # an image for everybody needs none
    registry.auth = BasicAuth({})
    with pytest.raises(UnauthorizedError, match="docker-credential-x is not on PATH"):
        client.resolve(reference)


def test_bearer_is_preferred_wherever_it_stands(
    registry: FakeRegistry, reference: Reference, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth({"me": "secret"})
    challenge = f'Basic realm="x", Bearer realm="{registry.url}/token",service="fake"'
    registry.script("HEAD", "", Reply(401, {"WWW-Authenticate": challenge}))
    connect(known({registry.address: ME})).resolve(reference)
    assert registry.requests[-1].headers["authorization"].startswith("Bearer ")


@pytest.mark.parametrize("challenge", ["", "Negotiate", 'Digest realm="a"', 'Bearer service="x"', "\x7f", "Bearer"])
def test_a_challenge_that_cannot_be_met(
    registry: FakeRegistry, reference: Reference, connect: Connect, known, challenge: str  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.always("HEAD", "", Reply(401, {"WWW-Authenticate": challenge}))
    with pytest.raises(UnauthorizedError):
        connect(known({registry.address: ME})).resolve(reference)
    assert registry.count() == 1


def test_credentials_of_one_registry_do_not_go_to_another(
    registry: FakeRegistry, other: FakeRegistry, image: images.Image, connect: Connect, known  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BasicAuth({"me": "secret"})
    other.auth = BasicAuth({"me": "secret"})
    client = connect(known({registry.address: ME}))
    client.resolve(Reference.parse(registry.add(image)))
    with pytest.raises(UnauthorizedError):
        client.resolve(Reference.parse(other.add(image)))
    assert all("authorization" not in request.headers for request in other.requests)


def test_a_forbidden_image(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.always("*", "/manifests/", refused(403, "DENIED", "requested access to the resource is denied"))
    with pytest.raises(UnauthorizedError, match="DENIED: requested access") as caught:
        connect().resolve(reference)
    assert (caught.value.status, caught.value.code) == (403, "DENIED")


def test_the_wait_for_a_token_can_be_cancelled(registry: FakeRegistry, reference: Reference, connect: Connect) -> None:
    registry.auth = BearerAuth()
    gate, cancel, client = Gate(), Cancellation(), connect()
    registry.script("GET", "/token", stalled(gate))
    leader = Worker(lambda: client.resolve(reference))
    leader.start()
    gate.wait_reached()
    follower = Worker(lambda: client.resolve(reference, cancel))
    follower.start()
    until(lambda: waiting(client) == 1, "the follower to wait")
    cancel.cancel()
    assert isinstance(follower.done().error, PullCancelledError)
    gate.open()
    assert leader.done().error is None
    assert registry.tokens == 1
