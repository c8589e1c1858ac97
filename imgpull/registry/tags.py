"""``GET /v2/<name>/tags/list``, page by page (distribution-spec, "Listing Tags")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from imgpull.errors import InsecureTransportError, InvalidImageError, RegistryUnavailableError
from imgpull.oci import strict_json
from imgpull.registry.exchange import Exchange, Question
from imgpull.registry.origin import origin, redacted

if TYPE_CHECKING:
    from imgpull.limits import Limits
    from imgpull.locking import Cancellation
    from imgpull.registry.hosts import Host
    from imgpull.registry.transport import Response

__all__ = ["TagPages", "tags_of"]

_PAGE = "n=1000"
_MOST_PAGES = 10_000
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_NEXT = re.compile(r"""<([^<>]*)>\s*;(?:[^,]*;)?\s*rel="?next"?""", re.ASCII | re.IGNORECASE)


class TagPages:
    """One page at a time, all from one host."""

    def __init__(
        self, exchange: Exchange, limits: Limits, repository: str, host: Host, cancel: Cancellation | None
    ) -> None:
        self.host = host
        self.tags: tuple[str, ...] = ()
        """Those of the current page. What can't be a tag is left out: nothing could be pulled by it."""
        self._exchange = exchange
        self._limits = limits
        self._repository = repository
        self._cancel = cancel
        self._query: str | None = _PAGE
        self._seen: set[str] = set()

    @property
    def more(self) -> bool:
        """Whether there is another page."""
        return self._query is not None

    def start(self) -> TagPages:
        """Turn to the first page; return self."""
        self.turn()
        return self

    def turn(self) -> None:
        """Turn to the next page. Raises RegistryError, and then stays on the current one."""
        question = Question(
            self.host,
            self._repository,
            "tags/list",
            f"the tags of {self._repository}",
            "application/json",
            self._query or "",
        )
        response = self._exchange.whole(question, limit_bytes=self._limits.manifest_bytes, cancel=self._cancel)
        self.tags, self._query = self._parse(response), self._next(question, response)

    def _parse(self, response: Response) -> tuple[str, ...]:
        try:
            page = None if response.cut_short else strict_json.loads(response.body, "the list of tags")
        except InvalidImageError:
            page = None
        tags = page.get("tags") if isinstance(page, dict) else ()
        if not isinstance(tags, list | None):
            raise RegistryUnavailableError(
                f"{self.host.credential_name}: sent no list of tags of {self._repository}; is it a registry?",
                registry=self.host.credential_name,
                status=response.status,
            )
        return tuple(tag for tag in tags or () if isinstance(tag, str) and _TAG.fullmatch(tag))

    def _next(self, question: Question, response: Response) -> str | None:
        """The query of the next page. Only the query is taken from the link, and only from one that leads to this very
        list: the registry must not choose what we ask, and whom (CVE-2026-50151)."""
        match = _NEXT.search(response.headers.get("Link", ""))
        if match is None:
            return None
        here = urlsplit(question.url)
        try:
            target = urljoin(question.url, match[1])
            there = urlsplit(target)
            astray = origin(target) != origin(question.url) or there.path != here.path
        except ValueError:
            target, there, astray = match[1], here, True
        if astray:
            raise InsecureTransportError(
                f"{self.host.credential_name}: its next page of tags, {redacted(target)}, was refused: it is elsewhere;"
                " tell whoever runs the registry",
                registry=self.host.credential_name,
            )
        query = "&".join(part for part in there.query.split("&") if not part.startswith("ns="))
        if query in self._seen or len(self._seen) >= _MOST_PAGES or not query.isprintable() or " " in query:
            return None  # round in a circle, or without end
        self._seen.add(query)
        return query


def tags_of(
    exchange: Exchange, limits: Limits, repository: str, host: Host, *, cancel: Cancellation | None
) -> TagPages:
    """The tags of ``repository`` at ``host``, before the first page."""
    return TagPages(exchange, limits, repository, host, cancel)
