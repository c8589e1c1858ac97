"""Redirects, followed by hand: registries send blobs to a CDN, whose host must not learn the registry's credentials."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from imgpull.errors import InsecureTransportError, RegistryUnavailableError
from imgpull.registry.origin import check_target, origin, redacted

__all__ = ["Answer", "follow"]

_logger = logging.getLogger("imgpull.registry")

_MOST = 10
"""As browsers, Go's net/http and every peer."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CARRIED = frozenset({"accept", "range"})
"""What crosses an origin: nothing that says who asks (distribution-spec: a client MUST NOT forward Authorization across
hosts; CVE-2018-18074, CVE-2023-32681). An allow-list, since a header added later must not leak by default."""


class Answer(Protocol):
    """What is looked at of a response."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def url(self) -> str: ...


AnswerT = TypeVar("AnswerT", bound=Answer)


def follow(send: Callable[[str, Mapping[str, str]], AnswerT], url: str, headers: Mapping[str, str]) -> AnswerT:
    """Send to ``url`` and on to wherever it redirects; return the first answer that is no redirect.

    ``send(url, headers)`` makes one request. Raises InsecureTransportError for a redirect that leaves TLS or leads
    where it must not (see ``check_target``), or for the eleventh; RegistryUnavailableError for one without a target.
    """
    start = url
    for _ in range(_MOST + 1):
        answer = send(url, headers)
        if answer.status not in _REDIRECTS:
            return answer
        target = _target(answer, url)
        if origin(target) != origin(url):
            # Never picked up again, not even on the way back: who sent us back has seen no proof of who we are.
            headers = {name: value for name, value in headers.items() if name.lower() in _CARRIED}
        _logger.debug("redirected from %s to %s", redacted(url), redacted(target))
        url = target
    registry = urlsplit(start).netloc
    raise InsecureTransportError(
        f"{registry}: more than {_MOST} redirects for {redacted(start)}; tell whoever runs the registry",
        registry=registry,
    )


def _target(answer: Answer, url: str) -> str:
    location = answer.headers.get("Location", "").strip()
    if not location:
        registry = urlsplit(url).netloc
        raise RegistryUnavailableError(
            f"{registry}: a redirect without a target for {redacted(url)}; tell whoever runs the registry",
            registry=registry,
            status=answer.status,
        )
    try:
        target = urljoin(url, location)
    except ValueError:  # "https://[": not even to be joined
        target = location
    check_target(url, target, "its redirect to")
    return target
