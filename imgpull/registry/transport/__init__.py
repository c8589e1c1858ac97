"""HTTP. The only room that knows requests and urllib3.

urllib3 carries what registries are asked, whole answers and bodies that are read as they come; requests the forms that
token servers are asked with. Both use one pool of connections, one TLS context, one User-Agent. Nothing here follows a
redirect, tries again, decodes a body or looks at the environment: each of these is a decision of the rooms above.

    pool.py      connections, and how to cut one        body.py      a body as it comes
    forms.py     requests, on the same connections      failures.py  their exceptions in our words
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imgpull.errors import ImgpullError, PullCancelledError
from imgpull.locking.slots import Slots

if TYPE_CHECKING:
    import ssl

    import requests

    from imgpull.locking import Cancellation
    from imgpull.registry.transport.body import Body
    from imgpull.registry.transport.pool import Line, Pools

__all__ = ["Response", "Transport"]

_USER_AGENT = "imgpull"
_CONNECT_TIMEOUT_SECONDS = 10.0
_READ_TIMEOUT_SECONDS = 30.0
_EXCHANGES_PER_HOST = 32
"""Whole answers under way at once to one host: a thousand pulls must not open a thousand connections. A holder reads
its answer to the end and waits for nothing else meanwhile."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Case does not matter in names."""
    body: bytes
    url: str
    cut_short: bool = False
    """There was more than the limit; ``body`` holds the limit's worth."""


class Transport:
    """Sends requests. Safe to use from any thread, and after a fork (a child opens connections of its own).

    One transport is one trust policy: ``context`` says whom to trust (None: ``ssl.create_default_context()``, which
    honours SSL_CERT_FILE and SSL_CERT_DIR). Idle connections close with :meth:`close`, or with the last reference.
    """

    def __init__(
        self,
        *,
        context: ssl.SSLContext | None = None,
        connect_timeout_seconds: float = _CONNECT_TIMEOUT_SECONDS,
        read_timeout_seconds: float = _READ_TIMEOUT_SECONDS,
    ) -> None:
        self._context = context
        self._timeouts = (connect_timeout_seconds, read_timeout_seconds)
        self._reset()
        _transports.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # guards _pools and _slots
        self._pools: Pools | None = None
        self._slots: dict[str, Slots] = {}
        self._local = threading.local()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit_bytes: int,
        cancel: Cancellation | None = None,
    ) -> Response:
        """Send a request and read the whole answer, at most ``limit_bytes`` of it.

        Raises RegistryUnavailableError when no whole answer came, PullCancelledError when ``cancel`` fired first.
        """
        return self._whole(url, limit_bytes, cancel, lambda: self._open(method, url, headers))

    def form(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        limit_bytes: int,
        cancel: Cancellation | None = None,
    ) -> Response:
        """Send ``fields`` as a form, in a GET's query or in a POST's body. Answers and raises as :meth:`request`."""

        def send() -> object:
            from imgpull.registry.transport.forms import send_form

            return send_form(self._session(), method, url, fields, _headers(headers), self._timeouts)

        return self._whole(url, limit_bytes, cancel, send)

    def stream(self, url: str, *, headers: Mapping[str, str] | None = None, cancel: Cancellation | None = None) -> Body:
        """Send a GET and return once the headers are here; the caller reads the body, or closes it.

        ``cancel`` works until the body has ended. Raises as :meth:`request`.
        """
        with self._exchange(url, cancel) as (line, after):
            return self._body(self._open("GET", url, headers), url, line, after)

    def load(self) -> None:
        """Import urllib3, which takes 80 ms, and make the pools; opens no connection."""
        from imgpull.registry.transport import body, failures  # noqa: F401

        self._open_pools()

    def close(self) -> None:
        """Close idle connections; those in use close when they are done. Whoever asks again opens new ones."""
        with self._lock:
            pools, self._pools = self._pools, None
        if pools is not None:
            pools.close()

    @contextmanager
    def _exchange(self, url: str, cancel: Cancellation | None) -> Iterator[tuple[Line, ExitStack]]:
        """One exchange on a line that ``cancel`` cuts, with failures translated; the stack runs when it has ended."""
        from imgpull.registry.transport.failures import FAILURES, unavailable
        from imgpull.registry.transport.pool import Line, using

        line = Line()
        with ExitStack() as after:
            if cancel is not None:
                cancel.raise_if_cancelled()
                after.callback(cancel.add_callback(line.cut))
            try:
                with using(line):
                    yield line, after
            except ImgpullError:
                raise
            except FAILURES as error:
                if line.is_cut:
                    raise PullCancelledError("cancelled by the caller") from None
                raise unavailable(error, url) from None

    def _whole(self, url: str, limit_bytes: int, cancel: Cancellation | None, send: Callable[[], object]) -> Response:
        with self._slots_of(url).take(cancel), self._exchange(url, cancel) as (line, after):
            body = self._body(send(), url, line, after)
            content, cut_short = body.read(limit_bytes)
        return Response(body.status, body.headers, content, url, cut_short)

    def _open(self, method: str, url: str, headers: Mapping[str, str] | None) -> object:
        import urllib3

        connect, read = self._timeouts
        return self._open_pools().urlopen(
            method,
            url,
            headers=_headers(headers),
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            timeout=urllib3.Timeout(connect=connect, read=read),
        )

    @staticmethod
    def _body(response: object, url: str, line: Line, after: ExitStack) -> Body:
        import urllib3

        from imgpull.registry.transport.body import Body

        assert isinstance(response, urllib3.BaseHTTPResponse)
        return Body(response, url, line, after.pop_all().close)

    def _open_pools(self) -> Pools:
        from imgpull.registry.transport.pool import Pools

        with self._lock:
            if self._pools is None:
                self._pools = Pools(self._context)
            return self._pools

    def _session(self) -> requests.Session:
        from imgpull.registry.transport.forms import new_session

        pools = self._open_pools()
        if getattr(self._local, "pools", None) is not pools:
            self._local.session, self._local.pools = new_session(pools), pools
        session: requests.Session = self._local.session
        return session

    def _slots_of(self, url: str) -> Slots:
        host = urlsplit(url).netloc
        with self._lock:
            slots = self._slots.get(host)
            if slots is None:
                slots = self._slots[host] = Slots(_EXCHANGES_PER_HOST)
            return slots


def _headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    # identity: a decoded body has another digest than the one that was promised.
    return {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **(headers or {})}


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _forget_connections() -> None:
    # A connection used on both sides of a fork would mix their answers up; and a lock may be held by a thread that
    # does not exist here.
    for transport in list(_transports):
        transport._reset()


os.register_at_fork(after_in_child=_forget_connections)
