"""One question to one host: authorised, redirected, and with every refusal as a typed error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from imgpull.errors import RegistryError, RegistryUnavailableError, UnauthorizedError
from imgpull.registry.answers import error_for, secrets_in
from imgpull.registry.origin import origin, redacted
from imgpull.registry.redirects import Answer, follow
from imgpull.registry.transport import Response

if TYPE_CHECKING:
    from imgpull.limits import Limits
    from imgpull.locking import Cancellation
    from imgpull.registry.auth import Authorizer
    from imgpull.registry.hosts import Host
    from imgpull.registry.transport import Transport
    from imgpull.registry.transport.body import Body

__all__ = ["Exchange", "Question"]

AnswerT = TypeVar("AnswerT", bound=Answer)

_OK, _UNAUTHORIZED = 200, 401
_WITH_BODY = frozenset({200, 206})
_DENIED = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a host."""

    host: Host
    repository: str
    path: str
    """Below the repository: ``manifests/7.2``. Parsed pieces only; it becomes part of a URL as it is."""
    what: str
    """The thing in words, for messages."""
    accept: str = ""
    query: str = ""

    @property
    def url(self) -> str:
        """Where to begin. Resuming begins here too: the target of an earlier redirect has a signature that runs out."""
        namespace = f"ns={quote(self.host.namespace, safe='')}" if self.host.namespace is not None else ""
        query = "&".join(part for part in (namespace, self.query) if part)
        return f"{self.host.base_url}/{self.repository}/{self.path}{'?' if query else ''}{query}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers to begin with."""
        return {"Accept": self.accept} if self.accept else {}


class Exchange:
    """Asks. One attempt per call: no retry, one authentication, at most ten redirects."""

    def __init__(self, transport: Transport, authorizer: Authorizer, limits: Limits) -> None:
        self._transport = transport
        self._authorizer = authorizer
        self._limits = limits

    def load(self) -> None:
        """Import what talks HTTP."""
        self._transport.load()

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def whole(
        self,
        question: Question,
        *,
        method: str = "GET",
        limit_bytes: int,
        accepted: Collection[int] = (_OK,),
        cancel: Cancellation | None = None,
    ) -> Response:
        """The whole answer, at most ``limit_bytes`` of its body (``cut_short`` tells).

        Raises for a status that is not ``accepted``: NotFoundError, UnauthorizedError, RateLimitedError or
        RegistryUnavailableError; InsecureTransportError for a redirect or token server that must not be asked.
        """

        def send(url: str, headers: Mapping[str, str]) -> Response:
            return self._transport.request(method, url, headers=headers, limit_bytes=limit_bytes, cancel=cancel)

        answer, sent = self._authorized(question, send, question.headers, cancel)
        if answer.status not in accepted:
            raise self._error(question, answer, sent)
        if answer.status == _OK:
            _refuse_encoding(question, answer)
        return answer

    def stream(self, question: Question, *, range_from: int = 0, cancel: Cancellation | None = None) -> Body:
        """The answer with its body still to be read: 200, or 206 where ``range_from`` > 0 asked for a part.

        Raises as :meth:`whole`. An UnauthorizedError of a redirect's target is ``retryable``: links run out.
        """

        def send(url: str, headers: Mapping[str, str]) -> Body | Response:
            body = self._transport.stream(url, headers=headers, cancel=cancel)
            if body.status in _WITH_BODY:
                return body
            content, cut_short = body.read(self._limits.error_body_bytes)
            return Response(body.status, body.headers, content, url, cut_short)

        headers = question.headers
        if range_from:
            headers["Range"] = f"bytes={range_from}-"
        answer, sent = self._authorized(question, send, headers, cancel)
        if isinstance(answer, Response):
            raise self._error(question, answer, sent)
        try:
            _refuse_encoding(question, answer)
        except RegistryError:
            answer.close()
            raise
        return answer

    def _authorized(
        self,
        question: Question,
        send: Callable[[str, Mapping[str, str]], AnswerT],
        headers: Mapping[str, str],
        cancel: Cancellation | None,
    ) -> tuple[AnswerT, Mapping[str, str]]:
        """The answer, after at most one authentication, and the credentials that were sent."""
        host, repository, url = question.host, question.repository, question.url
        sent = self._authorizer.headers_for(host, repository, cancel)
        answer = follow(send, url, {**headers, **sent})
        # A redirect's target may not challenge: it has no business with this registry's credentials (oras GHSA-vh4v).
        if answer.status == _UNAUTHORIZED and origin(answer.url) == origin(url):
            challenge = answer.headers.get("WWW-Authenticate", "")
            renewed = self._authorizer.answer(host, repository, challenge, sent, cancel)
            if renewed is not None:
                sent = renewed
                answer = follow(send, url, {**headers, **sent})
        return answer, sent

    def _error(self, question: Question, answer: Response, sent: Mapping[str, str]) -> RegistryError:
        host = question.host
        elsewhere = origin(answer.url) != origin(question.url)
        error = error_for(
            answer.status,
            answer.headers,
            answer.body[: self._limits.error_body_bytes],
            registry=urlsplit(answer.url).netloc if elsewhere else host.credential_name,
            what=question.what,
            remedy=f"{host.credential_name} sent us there; try again" if elsewhere else self._authorizer.remedy(host),
            secrets=secrets_in(sent),
        )
        if elsewhere and isinstance(error, UnauthorizedError):
            error.retryable = True
        return error


def _refuse_encoding(question: Question, answer: Answer) -> None:
    """identity was asked for. An encoded body is not the one whose digest is promised, and inflating it to see would
    be a second, unlimited way to inflate."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        registry = urlsplit(answer.url).netloc
        raise RegistryUnavailableError(
            f"{registry}: sent {question.what} from {redacted(answer.url)} with a Content-Encoding nobody asked for;"
            " tell whoever runs it",
            registry=registry,
            status=answer.status,
        )
