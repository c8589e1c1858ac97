"""The token server: one exchange that turns credentials, or nothing, into a bearer token.

POST with a form (oauth.md), or, where the server does not know that, GET with Basic (token.md). Anonymous: GET.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imgpull.errors import InsecureTransportError, InvalidImageError, RegistryUnavailableError, UnauthorizedError
from imgpull.oci import strict_json
from imgpull.registry.answers import RETRYABLE_STATUSES, error_for, secrets_in
from imgpull.registry.origin import check_target, redacted, same_site

if TYPE_CHECKING:
    from imgpull.limits import Limits
    from imgpull.locking import Cancellation
    from imgpull.registry.credentials import Credential
    from imgpull.registry.hosts import Host
    from imgpull.registry.transport import Response, Transport

__all__ = ["Token", "TokenServer"]

_CLIENT_ID = "imgpull"
_NO_POST = frozenset({400, 401, 404, 405})
"""Answers to POST after which GET is tried: containerd's list, met in servers that only know token.md."""
_LEAST_SECONDS = 60.0
"""token.md: a token lives 60 s when the answer doesn't say, and never less."""
_MOST_SECONDS = 24 * 3600.0
_OK = 200
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token."""

    authorization: str = field(repr=False)
    """The header's value."""
    until: float
    """Monotonic instant at which it runs out."""


class TokenServer:
    """Asks token servers. Stateless; one attempt per call."""

    def __init__(self, transport: Transport, limits: Limits, clock: Callable[[], float]) -> None:
        self._transport = transport
        self._limits = limits
        self._clock = clock

    def fetch(
        self,
        host: Host,
        realm: str,
        service: str,
        scope: str,
        credential: Credential | None,
        cancel: Cancellation | None = None,
    ) -> Token:
        """A token of ``realm`` for ``scope``. Raises as ``Authorizer.answer`` says."""
        asked_at = self._clock()
        if credential is not None and credential.registry_token:
            return Token(f"Bearer {credential.registry_token}", math.inf)
        check_target(host.base_url, realm, "its token server")
        if credential is not None:
            _check_entitled(host, realm)
        query = {"service": service, "scope": scope} if service else {"scope": scope}
        response, secrets = self._ask(realm, query, credential, cancel)
        self._check(host, realm, response, secrets)
        return _parse(host, response, asked_at)

    def _ask(
        self, realm: str, query: dict[str, str], credential: Credential | None, cancel: Cancellation | None
    ) -> tuple[Response, tuple[str, ...]]:
        """The answer, and the secrets that were sent to get it."""
        if credential is None:
            return self._get(realm, query, {}, cancel), ()
        form = {**query, "client_id": _CLIENT_ID, **_grant(credential)}
        secrets: tuple[str, ...] = (credential.identity_token, credential.password)
        response = self._transport.form("POST", realm, form, limit_bytes=self._limits.token_bytes, cancel=cancel)
        if response.status in _NO_POST and credential.username and not credential.identity_token:
            headers = {"Authorization": credential.basic}
            response = self._get(realm, {**query, "account": credential.username}, headers, cancel)
            secrets += secrets_in(headers)
        return response, secrets

    def _get(self, realm: str, query: dict[str, str], headers: dict[str, str], cancel: Cancellation | None) -> Response:
        limit = self._limits.token_bytes
        return self._transport.form("GET", realm, query, headers=headers, limit_bytes=limit, cancel=cancel)

    @staticmethod
    def _check(host: Host, realm: str, response: Response, secrets: tuple[str, ...]) -> None:
        status = response.status
        if status == _OK and not response.cut_short:
            return
        what = f"a token from {redacted(realm)}"
        if 300 <= status < 400:  # noqa: PLR2004
            # Following would carry the form, password included, to wherever it says.
            raise InsecureTransportError(
                f"{host.registry}: a redirect of its token server {redacted(realm)} was refused; tell whoever runs it",
                registry=host.registry,
                status=status,
            )
        if status == _OK:
            raise RegistryUnavailableError(
                f"{host.registry}: its token server {redacted(realm)} answered more than a token; tell whoever runs it",
                registry=host.registry,
                status=status,
            )
        error = error_for(status, response.headers, response.body, registry=host.registry, what=what, secrets=secrets)
        if status not in RETRYABLE_STATUSES and not isinstance(error, UnauthorizedError):
            # A 404 here is no statement about the image.
            error = UnauthorizedError(str(error), registry=host.registry, status=status, code=error.code)
        raise error


def _check_entitled(host: Host, realm: str) -> None:
    """A registry that names another site's token server would collect the password there (ggcr #2193)."""
    ours, theirs = urlsplit(host.base_url).hostname or "", urlsplit(realm).hostname or ""
    if not same_site(ours, theirs):
        raise InsecureTransportError(
            f"{host.registry}: its token server {redacted(realm)} is of another site, and would get your credentials"
            f" for {host.credential_name}; log out to go on without them",
            registry=host.registry,
        )


def _grant(credential: Credential) -> dict[str, str]:
    if credential.identity_token:
        return {"grant_type": "refresh_token", "refresh_token": credential.identity_token}
    return {"grant_type": "password", "username": credential.username, "password": credential.password}


def _parse(host: Host, response: Response, asked_at: float) -> Token:
    try:
        answer = strict_json.loads(response.body, "the token server's answer")
    except InvalidImageError:
        answer = None
    fields = answer if isinstance(answer, dict) else {}
    token = fields.get("token") or fields.get("access_token")
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise UnauthorizedError(
            f"{host.registry}: its token server answered without a token; tell whoever runs it",
            registry=host.registry,
            status=response.status,
        )
    return Token(f"Bearer {token}", asked_at + _lifetime_seconds(fields.get("expires_in")))


def _lifetime_seconds(expires_in: object) -> float:
    # issued_at is not looked at: it is by the server's clock, and a 401 tells the truth anyway.
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        return _LEAST_SECONDS
    return min(max(float(min(expires_in, _MOST_SECONDS)), _LEAST_SECONDS), _MOST_SECONDS)
