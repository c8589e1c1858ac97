"""What urllib3 and requests raise, said in our words: one line, with the remedy, and whether to try again.

requests' errors are not named here, so that nobody imports it for them: each is an OSError that carries urllib3's.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import urllib3.exceptions

from imgpull.errors import RegistryUnavailableError

__all__ = ["FAILURES", "Crawled", "unavailable"]


class Crawled(OSError):
    """Bytes come, but too slowly to count as progress."""


FAILURES = (
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,  # every requests.RequestException is one
    ValueError,  # LocationParseError, and what http.client says of a status line or header it can't read
)
"""Everything a request or a read from a body may raise."""


def unavailable(error: BaseException, url: str) -> RegistryUnavailableError:
    """The error to raise for ``error``, met while talking to the host of ``url``.

    ``retryable`` follows containerd's ``isTransientTransportErr`` (timeouts, resets, an early end): a refused
    connection, an unknown name and failed TLS are the same a second later.
    """
    registry = urlsplit(url).netloc.rpartition("@")[2]
    reason, retryable = _reason(list(_chain(error)))
    # "from None" at the raise, and only our words here: their messages quote URLs with signed queries.
    return RegistryUnavailableError(f"{registry}: {reason}", registry=registry, retryable=retryable)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what caused it: as cause, as context, as ``reason`` (urllib3) or as first argument (requests)."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        link = queue.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        queue += [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]


def _reason(chain: list[BaseException]) -> tuple[str, bool]:
    for kinds, words, retryable in _TABLE:
        found = next((link for link in chain if isinstance(link, kinds)), None)
        if found is not None:
            detail = getattr(found, "verify_message", "") or ""
            return words.format(detail=detail), retryable
    return "the connection failed; check the network and the registry's name", True


_TABLE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, bool], ...] = (
    (
        ssl.SSLCertVerificationError,
        "its TLS certificate is not trusted ({detail}); if it is your own, add its CA to the system's or name the file"
        " in SSL_CERT_FILE",
        False,
    ),
    (
        (urllib3.exceptions.NameResolutionError, socket.gaierror),
        "the name can't be resolved; check the registry's name and the network's DNS",
        False,
    ),
    (ConnectionRefusedError, "connection refused; is the registry running, and is the port right?", False),
    (Crawled, "it sends less than 1 KiB/s; the registry or the network is stuck, try again later", True),
    (
        urllib3.exceptions.ReadTimeoutError,
        "no data came for too long; the registry or the network is stuck, try again later",
        True,
    ),
    (
        (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError),
        "the connection was reset; try again later",
        True,
    ),
    (
        ssl.SSLError,
        "TLS failed; if the registry speaks plain HTTP, say so with plain_http or --plain-http",
        False,
    ),
    (
        (urllib3.exceptions.ConnectTimeoutError, TimeoutError),
        "it can't be reached; check the network and any firewall",
        True,
    ),
    (
        (urllib3.exceptions.IncompleteRead, http.client.IncompleteRead, http.client.RemoteDisconnected),
        "the connection ended before the answer did; try again later",
        True,
    ),
    (
        (urllib3.exceptions.LocationParseError, http.client.InvalidURL),
        "its URL can't be used; check the registry's name",
        False,
    ),
    (
        (http.client.HTTPException, urllib3.exceptions.InvalidHeader),
        "the answer is not proper HTTP; is it a registry, and is the scheme right?",
        True,
    ),
)
