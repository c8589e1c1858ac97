"""Canaries: no secret in an error, a repr, a log record, or a request to a host that is not entitled to it."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator

import pytest

from fakes import images
from fakes.registry import BasicAuth, BearerAuth, FakeRegistry, Reply, Request, redirect
from imgpull.errors import ImgpullError
from imgpull.oci import Descriptor, Digest
from imgpull.reference import Reference
from imgpull.registry import Credential, Registry

Connect = Callable[..., Registry]
CANARY = "canary-7f3a"
CREDENTIALS = [
    Credential("me", CANARY),
    Credential(identity_token=CANARY),
    Credential(registry_token=CANARY),
    Credential("me", CANARY, CANARY, CANARY),
]


def forms(secret: str) -> list[str]:
    """The secret as it may turn up."""
    encoded = base64.b64encode(f"me:{secret}".encode()).decode()
    return [secret, encoded, encoded.rstrip("=")]


def told(error: BaseException) -> str:
    """Everything a traceback, a pickle or a debugger would show of an error and those behind it."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(pickle.dumps(error))


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    text = caplog.text + "".join(repr(vars(record)) for record in caplog.get_records("call"))
    assert not [form for form in forms(CANARY) if form in text]


def echo(request: Request, status: int) -> Reply:
    """An error that quotes the request, as a hostile or a careless registry does."""
    # What matters first: a message is cut after 200 characters, and a form's fields come in our order.
    words = [*request.headers.get("authorization", "").split()[1:], *sorted(request.form.values()), request.target]
    quoted = " ".join(word for word in words if CANARY in word or word in forms(CANARY))
    for word in words:
        try:
            quoted += " " + base64.b64decode(word, validate=True).decode()
        except ValueError:
            continue
    return Reply(status, body=json.dumps({"errors": [{"code": "ECHO", "message": quoted}]}).encode())


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("auth", [BasicAuth({"me": CANARY}), BearerAuth({"me": CANARY}, anonymous=False)])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500])
def test_a_registry_that_quotes_what_it_was_sent(
    registry: FakeRegistry, image: images.Image, connect: Connect, known, credential: Credential,  # type: ignore[no-untyped-def]
    auth: BasicAuth | BearerAuth, status: int,
) -> None:  # fmt: skip
    registry.auth = auth
    reference = Reference.parse(registry.add(image))
    registry.always(
        "*", "", lambda request, answer: answer(request) if answer(request).status == 401 else echo(request, status)
    )
    with pytest.raises(ImgpullError) as caught:
        connect(known({registry.address: credential}), attempts=1).get_manifest(reference)
    assert not [form for form in forms(CANARY) if form in told(caught.value)]


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("post_status", [200, 404])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_a_token_server_that_quotes_what_it_was_sent(
    registry: FakeRegistry, image: images.Image, connect: Connect, known, credential: Credential,  # type: ignore[no-untyped-def]
    post_status: int, status: int,
) -> None:  # fmt: skip
    registry.auth = BearerAuth()
    reference = Reference.parse(registry.add(image))
    if post_status != 200:
        registry.script("POST", "/token", Reply(post_status))
    registry.always("*", "/token", lambda request, answer: echo(request, status))
    with pytest.raises(ImgpullError) as caught:
        connect(known({registry.address: credential}), attempts=1).get_manifest(reference)
    assert not [form for form in forms(CANARY) if form in told(caught.value)]


def test_a_bearer_token_that_was_fetched_is_a_secret_too(
    registry: FakeRegistry, image: images.Image, connect: Connect
) -> None:
    registry.auth = BearerAuth()
    registry.auth.accept(CANARY, "library/fake")
    registry.always("GET", "/token", Reply(200, body=json.dumps({"token": CANARY}).encode()))
    reference = Reference.parse(registry.add(image))
    client = connect(attempts=1)
    client.resolve(reference)
    registry.always("GET", "", lambda request, answer: echo(request, 403))
    with pytest.raises(ImgpullError) as caught:
        client.get_manifest(reference)
    assert CANARY not in told(caught.value)
    authorizer = client._client._exchange._authorizer
    assert CANARY not in repr(list(authorizer._tokens._outcomes.values()))
    assert CANARY not in repr(list(authorizer._hosts.values()))


@pytest.mark.parametrize(
    "answer",
    [
        Reply(403),
        Reply(500),
        Reply(302),
        Reply(307, {"Location": f"http://[{CANARY}"}),
        Reply(200, {"Content-Encoding": "gzip"}, b"x"),
        Reply(200, body=bytes(100)),
    ],
)
def test_the_signature_of_a_link_is_a_secret(
    registry: FakeRegistry, other: FakeRegistry, connect: Connect, answer: Reply
) -> None:
    target = f"{other.url}/blob?X-Amz-Signature={CANARY}"
    registry.always("GET", "/blobs/", redirect(target))
    other.always("GET", "/blob", answer)
    blob = Descriptor("a/b", Digest.of_bytes(b"x"), 1)
    with pytest.raises(ImgpullError) as caught:
        connect(attempts=1).open_blob(Reference.parse(f"{registry.address}/a/b"), blob)
    assert CANARY not in told(caught.value)
    assert other.seen("GET", CANARY)  # it did carry it


@pytest.mark.parametrize(
    "realm", ["http://me:{}@127.0.0.1:1/token", "https://evil.example/token?key={}", "ftp://{}@x/"]
)
def test_what_a_realm_carries(
    registry: FakeRegistry, image: images.Image, connect: Connect, known, realm: str  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    registry.auth = BearerAuth(realm=realm.format(CANARY))
    reference = Reference.parse(registry.add(image))
    with pytest.raises(ImgpullError) as caught:
        connect(known({registry.address: Credential("me", "x")})).resolve(reference)
    assert CANARY not in told(caught.value)


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_nobody_but_the_registry_sees_it(
    registry: FakeRegistry, other: FakeRegistry, image: images.Image, connect: Connect, known,  # type: ignore[no-untyped-def]
    credential: Credential,
) -> None:  # fmt: skip
    """A thief that answers everything with a challenge of each kind, reached by redirect of every request."""
    registry.auth = BasicAuth({"me": CANARY})
    reference = Reference.parse(registry.add(image))
    challenge = f'Bearer realm="{other.url}/token", Basic realm="x"'
    other.always("*", "", Reply(401, {"WWW-Authenticate": challenge}))
    registry.script("HEAD", "", Reply(401, {"WWW-Authenticate": challenge}))
    registry.always("*", "", redirect(f"{other.url}/v2/a/manifests/b"))
    client = connect(known({registry.address: credential, other.address: credential}), attempts=2)
    for _ in range(2):
        for ask in (client.resolve, client.get_manifest):
            with pytest.raises(ImgpullError):
                ask(reference)
    for request in other.requests:
        seen = request.target + str(request.headers) + request.body.decode()
        assert not [form for form in forms(CANARY) if form in seen]
