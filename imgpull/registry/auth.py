"""Authentication: Basic, and bearer tokens from a token server.

Sources: RFC 7617, RFC 6750; distribution ``docs/spec/auth/token.md`` and ``oauth.md``.

Words
    *offer*: what a host's challenge asked for, remembered so that later requests need no 401 first.
    *realm*: the token server's URL, from the challenge. The registry chooses it, so it is not trusted.
    *scope*: always ``repository:<the one asked for>:pull``, whatever the challenge would like to have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgpull.registry.challenge import Challenge, parse_challenges
from imgpull.registry.shared import SharedWork
from imgpull.registry.token import Token, TokenServer

if TYPE_CHECKING:
    from imgpull.limits import Limits
    from imgpull.locking import Cancellation
    from imgpull.registry.credentials import Credential, Credentials
    from imgpull.registry.hosts import Host
    from imgpull.registry.transport import Transport

__all__ = ["Authorizer"]

_logger = logging.getLogger("imgpull.registry")

_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class _Offer:
    scheme: str
    realm: str = ""
    service: str = ""


@dataclass(slots=True)
class _HostState:
    offer: _Offer | None = None
    remedy: str = field(default="", repr=False)


class Authorizer:
    """Knows what to show to which host. One per set of credentials, for all threads: a token is fetched once per host
    and scope, however many ask, and is fetched again when it has run out or the registry no longer takes it."""

    def __init__(
        self,
        transport: Transport,
        credentials: Credentials,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._clock = clock
        self._server = TokenServer(transport, limits, clock)
        self._tokens: SharedWork[Token] = SharedWork()
        self._lock = threading.Lock()  # guards _hosts and what is in it
        self._hosts: dict[str, _HostState] = {}

    def headers_for(self, host: Host, repository: str, cancel: Cancellation | None = None) -> Mapping[str, str]:
        """What a request to ``host`` should carry. Nothing as long as the host has not asked.

        May fetch a token, and raises what that raises (see ``answer``).
        """
        with self._lock:
            offer = self._state(host).offer
        return self._headers(host, repository, offer, "", cancel) if offer is not None else _NO_HEADERS

    def answer(
        self,
        host: Host,
        repository: str,
        challenge: str,
        sent: Mapping[str, str],
        cancel: Cancellation | None = None,
    ) -> Mapping[str, str] | None:
        """What to send instead of ``sent``, which ``host`` refused with 401 and this ``WWW-Authenticate`` value.

        None when there is nothing else to send. Raises UnauthorizedError when the token server denies it,
        InsecureTransportError when the realm must not be asked, RegistryUnavailableError and RateLimitedError when it
        gives no answer; never keeps such an error for a later call.
        """
        offer = _choose(parse_challenges(challenge))
        if offer is None:
            return None
        with self._lock:
            self._state(host).offer = offer
        refused = sent.get("Authorization", "")
        headers = self._headers(host, repository, offer, refused, cancel)
        return headers if headers and headers["Authorization"] != refused else None

    def remedy(self, host: Host) -> str:
        """What the user can do when ``host`` denies access."""
        with self._lock:
            return self._state(host).remedy or f"log in with: imgpull login {host.credential_name}"

    def _headers(
        self, host: Host, repository: str, offer: _Offer, refused: str, cancel: Cancellation | None
    ) -> Mapping[str, str]:
        if offer.scheme == "basic":
            credential = self._credential(host)
            if credential is None or not credential.username:
                return _NO_HEADERS
            return {"Authorization": credential.basic}
        scope = f"repository:{repository}:pull"
        token = self._tokens.get(
            f"token://{host.scheme}/{host.address}/{offer.realm}/{offer.service}/{scope}",
            lambda known: self._clock() < known.until and known.authorization != refused,
            lambda: self._fetch(host, offer, scope, cancel),
            cancel,
        )
        return {"Authorization": token.authorization}

    def _fetch(self, host: Host, offer: _Offer, scope: str, cancel: Cancellation | None) -> Token:
        _logger.debug("asking for a token for %s of %s", scope, host.address)
        return self._server.fetch(host, offer.realm, offer.service, scope, self._credential(host), cancel)

    def _credential(self, host: Host) -> Credential | None:
        credential = self._credentials.credential_for(host.credential_name)
        name = host.credential_name
        if credential is not None and credential.problem:
            remedy = credential.problem
        elif credential is None or credential.empty:
            remedy = f"there are no credentials for it; log in with: imgpull login {name}"
        else:
            remedy = f"the stored credentials don't do; log in anew with: imgpull login {name}"
        with self._lock:
            self._state(host).remedy = remedy
        return None if credential is not None and credential.empty else credential

    def _state(self, host: Host) -> _HostState:
        return self._hosts.setdefault(f"{host.scheme}://{host.address}", _HostState())


def _choose(challenges: tuple[Challenge, ...]) -> _Offer | None:
    """Bearer before Basic, whatever their order: a token says less than a password."""
    for challenge in challenges:
        realm = challenge.parameters.get("realm", "")
        if challenge.scheme == "bearer" and realm:
            return _Offer("bearer", realm, challenge.parameters.get("service", ""))
    if any(challenge.scheme == "basic" for challenge in challenges):
        return _Offer("basic")
    return None
