"""Connections: one pool per host, and a way to cut a connection from another thread."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
import urllib3.connection
import urllib3.connectionpool

__all__ = ["Line", "Pools", "using"]

_HOSTS = 64
"""Pools kept, one per host met; urllib3's 10 is soon used up by a registry, its token server and CDN, and mirrors."""
_CONNECTIONS = 128
"""Idle connections kept per host. Not a bound (``block=False``): a thread that reads a blob may need a token or a
redirect target meanwhile, and waiting for a connection while holding one is a deadlock (containerd #12126). What is
bounded is the work: the fetcher's slots for bodies, the transport's own for everything else."""


class Line:
    """The socket of one exchange, so that another thread can cut it. Cutting is final, before or after connecting."""

    __slots__ = ("_cut", "_lock", "_socket")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _socket and _cut: a cut and a connect can't miss each other
        self._socket: socket.socket | None = None
        self._cut = False

    @property
    def is_cut(self) -> bool:
        """Whether :meth:`cut` was called."""
        return self._cut

    def attach(self, connection: socket.socket | None) -> None:
        """This socket carries the exchange now."""
        with self._lock:
            self._socket = connection
            if self._cut:
                _shut(connection)

    def detach(self) -> None:
        """The exchange is over; its socket may serve another one."""
        with self._lock:
            self._socket = None

    def cut(self) -> None:
        """Wake whoever reads or writes this exchange: it meets the end of the stream at once."""
        with self._lock:
            self._cut = True
            _shut(self._socket)


def _shut(connection: socket.socket | None) -> None:
    if connection is None:
        return
    with contextlib.suppress(OSError):  # closed, or never connected: nobody reads it
        # socket's own shutdown: SSLSocket's drops the TLS state first, and a reader in another thread would then
        # take what is left in the kernel, ciphertext, for the body.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Current(threading.local):
    line: Line | None = None


_current = _Current()


@contextmanager
def using(line: Line) -> Iterator[None]:
    """Let connections that this thread uses within the block attach their sockets to ``line``."""
    _current.line = line
    try:
        yield
    finally:
        _current.line = None


class _Attaching:
    """Mixin for connections: tells the current line about the socket, new or reused."""

    sock: socket.socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._attach()

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is not None:
            self._attach()
        super().request(*args, **options)  # type: ignore[misc]

    def _attach(self) -> None:
        if _current.line is not None:
            _current.line.attach(self.sock)


class _HTTPConnection(_Attaching, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_Attaching, urllib3.connection.HTTPSConnection):
    pass


class _HTTPPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Pools(urllib3.PoolManager):
    """A pool per host. The TLS context is made with the first HTTPS pool: it takes 20 ms that loopback need not pay."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(num_pools=_HOSTS, maxsize=_CONNECTIONS, block=False, retries=False)
        self.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        self._context = context

    def close(self) -> None:
        """Close idle connections now, and each other one as soon as it is put back. Not ``clear()``: since urllib3 2
        that only forgets the pools, which one body still being read keeps alive with all their connections."""
        for key in self.pools.keys():  # noqa: SIM118 (iterating the container itself raises)
            pool = self.pools.get(key)
            if pool is not None:
                pool.close()
        self.clear()

    def _new_pool(
        self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None
    ) -> urllib3.connectionpool.HTTPConnectionPool:
        context = dict(self.connection_pool_kw if request_context is None else request_context)
        if scheme == "https":
            if self._context is None:
                self._context = ssl.create_default_context()
            context["ssl_context"] = self._context
        return super()._new_pool(scheme, host, port, context)


class _Discreet(logging.Filter):
    """What urllib3 may log about our requests. Each target is logged, and that of a redirected blob carries a
    signature that opens it for an hour; a warning about a hostile header would put a traceback on stderr."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _current.line is None:  # somebody else's use of urllib3
            return True
        if isinstance(record.args, tuple):
            record.args = tuple(
                argument.partition("?")[0] + "?…" if isinstance(argument, str) and "?" in argument else argument
                for argument in record.args
            )
        return record.levelno < logging.WARNING


logging.getLogger("urllib3.connectionpool").addFilter(_Discreet())
logging.getLogger("urllib3.connection").addFilter(_Discreet())
