"""How a fake registry wants to be authenticated to: Basic, or bearer tokens from a token server of its own."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fakes.wire import Reply, Request


@dataclass
class BasicAuth:
    """Everything needs one of these users (name → password)."""

    users: Mapping[str, str]

    def challenge(self, request: Request, address: str) -> str | None:
        """The ``WWW-Authenticate`` value to refuse a request with; None to let it pass."""
        return None if basic_user(request, self.users) else 'Basic realm="fake"'

    def answer(self, request: Request) -> Reply | None:
        """No token server."""
        return None


@dataclass
class BearerAuth:
    """Everything needs a token, which ``/token`` gives away, or sells for a user's password or an identity token."""

    users: Mapping[str, str] = field(default_factory=dict)
    identity_tokens: frozenset[str] = frozenset()
    anonymous: bool = True
    """Whether a token can be had without credentials."""
    service: str = "fake"
    realm: str = ""
    """The token server to name in challenges; by default this registry's own ``/token``."""
    expires_in: Any = 300
    """None leaves the field out."""
    name: str = "token"
    """The field that carries the token: ``token`` or ``access_token``."""
    post_status: int = 200
    """What POST is answered with; 200: a token."""
    challenge_extra: str = ""
    """More parameters for the challenge, such as a scope."""

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards _valid
        self._valid: dict[str, str] = {}

    def challenge(self, request: Request, address: str) -> str | None:
        """As :meth:`BasicAuth.challenge`. A token is good for the repository it was given for."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        with self._lock:
            scope = self._valid.get(token) if scheme == "Bearer" else None
        if scope is not None and _repository(scope) in request.path:
            return None
        realm = self.realm or f"http://{address}/token"
        return f'Bearer realm="{realm}",service="{self.service}"{self.challenge_extra}'

    def accept(self, token: str, repository: str) -> None:
        """Let a token of the test's own pass."""
        with self._lock:
            self._valid[token] = f"repository:{repository}:pull"

    def revoke(self) -> None:
        """No token given so far is good any more."""
        with self._lock:
            self._valid.clear()

    def answer(self, request: Request) -> Reply | None:
        """The token server's answer."""
        if request.method == "POST":
            if self.post_status != 200:  # noqa: PLR2004
                return Reply(self.post_status)
            form = request.form
            by_password = form.get("grant_type") == "password" and self.users.get(form["username"]) == form["password"]
            by_token = form.get("grant_type") == "refresh_token" and form["refresh_token"] in self.identity_tokens
            return self._token(form.get("scope", "")) if by_password or by_token else _denied()
        if "authorization" in request.headers:
            known = basic_user(request, self.users)
            return self._token(request.query.get("scope", "")) if known else _denied()
        return self._token(request.query.get("scope", "")) if self.anonymous else _denied()

    def _token(self, scope: str) -> Reply:
        token = f"fake-token-{next(self._numbers)}"
        with self._lock:
            self._valid[token] = scope
        lifetime = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return Reply(200, {"Content-Type": "application/json"}, json.dumps({self.name: token, **lifetime}).encode())


def basic_user(request: Request, users: Mapping[str, str]) -> str | None:
    """The user that a Basic Authorization header proves to be, or None."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return name if scheme == "Basic" and name in users and users[name] == password else None


def _repository(scope: str) -> str:
    return scope.split(":")[1] if scope.count(":") == 2 else "\0"  # noqa: PLR2004


def _denied() -> Reply:
    body = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
    return Reply(401, {"Content-Type": "application/json"}, json.dumps(body).encode())
