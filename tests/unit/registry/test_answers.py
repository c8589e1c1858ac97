"""Status to error, the registry's own words, Retry-After."""

from __future__ import annotations

import base64
import json
import pickle

import pytest

from imgpull.errors import (
    NotFoundError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    UnauthorizedError,
)
from imgpull.registry.answers import error_for, retry_after_seconds, secrets_in


def made(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None, secrets: tuple[str, ...] = ()
) -> RegistryError:
    return error_for(status, headers or {}, body, registry="r.example", what="manifest a:b", secrets=secrets)


def said(code: object, message: object) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, RegistryUnavailableError, False),
        (401, UnauthorizedError, False),
        (403, UnauthorizedError, False),
        (404, NotFoundError, False),
        (405, RegistryUnavailableError, False),
        (408, RegistryUnavailableError, True),
        (416, RegistryUnavailableError, False),
        (418, RegistryUnavailableError, False),
        (429, RateLimitedError, True),
        (500, RegistryUnavailableError, True),
        (501, RegistryUnavailableError, False),
        (502, RegistryUnavailableError, True),
        (503, RegistryUnavailableError, True),
        (504, RegistryUnavailableError, True),
        (204, RegistryUnavailableError, False),
        (304, RegistryUnavailableError, False),
    ],
)
def test_the_table(status: int, kind: type[RegistryError], retryable: bool) -> None:
    error = made(status)
    assert type(error) is kind
    assert (error.registry, error.status, error.retryable) == ("r.example", status, retryable)
    assert str(error).startswith("r.example: ")
    assert "manifest a:b" in str(error)
    assert type(pickle.loads(pickle.dumps(error))) is kind


def test_the_registry_is_quoted_in_one_printable_line() -> None:
    error = made(404, said("MANIFEST_UNKNOWN", "manifest\nunknown\x1b[2J\u202e" + "x" * 500))
    assert error.code == "MANIFEST_UNKNOWN"
    assert "(MANIFEST_UNKNOWN: manifest unknown [2J x" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"errors":[]}',
        b'{"errors":{}}',
        b'{"errors":[1]}',
        b"[" * 100_000,
        b"\xff",
        said(1, None),
    ],
)
def test_a_body_that_says_nothing(body: bytes) -> None:
    error = made(404, body)
    assert error.code == ""
    assert str(error) == "r.example: manifest a:b not found; check the name, or log in if it is private"


def test_a_code_that_is_none_is_not_taken_over() -> None:
    assert made(404, said("lower case", "x")).code == ""


def test_secrets_are_struck_out_before_anything_is_cut() -> None:
    error = made(403, said("DENIED", "you sent canary-token, and can\nary"), secrets=("canary-token", ""))
    assert "you sent ***, and" in str(error)
    long = made(403, said("DENIED", "x" * 195 + "canary-token"), secrets=("canary-token",))
    assert "canar" not in str(long)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("1000000000", 1e9),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("9" * 400, None),
        ("Thu, 99 Jan 1970 99:99:99 GMT", None),
        ("Thu, 01 Jan 99999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_seconds({"Retry-After": value}, now=lambda: 1000.0) == seconds


def test_a_rate_limit_says_when() -> None:
    error = made(429, headers={"Retry-After": "30"})
    assert error.retry_after_seconds == 30
    assert "in 30 s" in str(error)
    assert made(503, headers={"Retry-After": "3"}).retry_after_seconds == 3


def test_what_an_authorization_header_gives_away() -> None:
    encoded = base64.b64encode(b"user:pass:word").decode()
    assert secrets_in({"Authorization": f"Basic {encoded}"}) == (encoded, "pass:word")
    assert secrets_in({"Authorization": "Bearer abc"}) == ("abc",)
    assert secrets_in({"Authorization": "Basic %%%"}) == ("%%%",)
    assert secrets_in({}) == ()
