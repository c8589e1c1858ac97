"""What an answer that is no success means: the status table, the registry's own words, and ``Retry-After``."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping

from imgpull.errors import (
    NotFoundError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    UnauthorizedError,
)

__all__ = ["RETRYABLE_STATUSES", "error_for", "retry_after_seconds", "secrets_in"]

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""containerd's and go-containerregistry's common ground, with 502, which only the latter retries."""

_NOT_FOUND, _TOO_MANY = 404, 429
_DENIED = frozenset({401, 403})
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
_SHOWN_CHARACTERS = 200


def error_for(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    registry: str,
    what: str,
    remedy: str = "",
    secrets: Iterable[str] = (),
) -> RegistryError:
    """The error for an answer with this status.

    ``what`` names the thing asked for, ``remedy`` what to do about a 401 or 403. ``secrets`` are what the request
    carried: a registry may quote a request in its answer, and its words end up in messages.
    """
    code, words = _registry_words(body, secrets)
    said = f" ({': '.join(part for part in (code, words) if part)})" if code or words else ""
    if status == _NOT_FOUND:
        message = f"{registry}: {what} not found{said}; check the name, or log in if it is private"
        return NotFoundError(message, registry=registry, status=status, code=code)
    if status in _DENIED:
        message = f"{registry}: access to {what} was denied{said}; {remedy or f'log in with: imgpull login {registry}'}"
        return UnauthorizedError(message, registry=registry, status=status, code=code)
    wait = retry_after_seconds(headers)
    if status == _TOO_MANY:
        when = f"in {wait:g} s" if wait is not None else "later, or log in for a higher limit"
        message = f"{registry}: too many requests for {what}{said}; try again {when}"
        return RateLimitedError(
            message, registry=registry, status=status, code=code, retryable=True, retry_after_seconds=wait
        )
    retryable = status in RETRYABLE_STATUSES
    advice = "try again later" if retryable else "is it a registry of the distribution specification?"
    return RegistryUnavailableError(
        f"{registry}: answered {status} for {what}{said}; {advice}",
        registry=registry,
        status=status,
        code=code,
        retryable=retryable,
        retry_after_seconds=wait,
    )


def retry_after_seconds(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """``Retry-After`` (RFC 9110 §10.2.3) as seconds from now, never negative; None when absent or unreadable."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,15}", value, re.ASCII):
        return float(value)
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000": UTC, place unknown (RFC 5322 §3.3)
        moment = moment.replace(tzinfo=UTC)
    return max(moment.timestamp() - now(), 0.0)


def secrets_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets an Authorization header carries: the token, or the password and its encoded form."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return (value,) if value else ()
    try:
        _, _, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return (value,)
    return (value, password)


def _registry_words(body: bytes, secrets: Iterable[str]) -> tuple[str, str]:
    """Code and message of the first error in the body (distribution-spec, "Error Codes"); empty where it has none."""
    try:
        document = json.loads(body)
        first = document["errors"][0]
        code, message = first.get("code"), first.get("message")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return "", ""
    code = code if isinstance(code, str) and _CODE.fullmatch(code) else ""
    return code, _one_line(message, secrets) if isinstance(message, str) else ""


def _one_line(text: str, secrets: Iterable[str]) -> str:
    # Secrets first: cutting and cleaning could leave a part of one that no longer matches.
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, "***")
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
