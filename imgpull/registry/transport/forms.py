"""Forms, by requests: what token servers are asked with. Imported where one is sent, since it costs 40 ms."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
import requests.adapters

if TYPE_CHECKING:
    import urllib3.connectionpool

    from imgpull.registry.transport.pool import Pools

__all__ = ["new_session", "send_form"]


class _Adapter(requests.adapters.HTTPAdapter):
    """Sends a session's requests through ``pools``, and through nothing else."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        super().__init__(max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        self.poolmanager = self._pools

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> urllib3.connectionpool.HTTPConnectionPool:
        # Not by the parent's key, which puts certifi's bundle beside our context and so splits the pool in two.
        return self._pools.connection_from_url(str(request.url))

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Trust is the pools' one context. A request can't loosen it, for itself or for those after it."""


def new_session(pools: Pools) -> requests.Session:
    """A session for one thread (a Session has no promise about threads, psf/requests#2766; the adapter's pool has).

    Takes nothing from the environment (with ``trust_env`` a ``.netrc`` replaces the bearer token, and follows a
    redirect to the CDN), keeps no cookies, and has no headers but those of each request.
    """
    session = requests.Session()
    session.trust_env = False
    session.headers.clear()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.mount("https://", _Adapter(pools))
    session.mount("http://", session.get_adapter("https://"))
    return session


def send_form(
    session: requests.Session,
    method: str,
    url: str,
    fields: Mapping[str, str],
    headers: Mapping[str, str],
    timeouts: tuple[float, float],
) -> object:
    """Sends ``fields`` in a GET's query or a POST's body; the answer is urllib3's, unread.

    By the adapter, not the session: that reads the whole body of a redirect, however long, even where none is followed.
    """
    query, body = (fields, None) if method == "GET" else (None, fields)
    request = session.prepare_request(requests.Request(method, url, headers=headers, params=query, data=body))
    return session.get_adapter(url).send(request, stream=True, timeout=timeouts).raw
