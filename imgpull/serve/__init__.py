"""Any OCI image layout (a store is one), read-only, over the distribution protocol.

::

    with Server(Path("/var/lib/imgpull")) as server:
        imgpull.pull(f"{server.address}/library/redis:7.2")

Answers GET and HEAD of ``/v2/``, manifests by tag and by digest, blobs (single ranges too), ``tags/list`` and
``_catalog`` (with ``n`` and ``last``) as the OCI distribution specification 1.1 says, and refuses every other method.
Nothing is written. Every blob of the layout can be had under every repository name it has: a layout does not say which
blob belongs to which name. There is no authentication, so an address that is not loopback gives the images to whoever
reaches it.

A body goes by ``sendfile(2)`` from the page cache, one system call without the interpreter's lock for as much as the
receiver takes: what limits many readers at once is memory bandwidth, not Python.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import socketserver
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from imgpull.errors import StoreError
from imgpull.serve.handler import Handler
from imgpull.serve.layout import LayoutReader

__all__ = ["Server"]

_log = logging.getLogger("imgpull.serve")

_CLOSE_SECONDS = 10.0
"""How long :meth:`Server.close` waits for its threads; they end as soon as their connection is shut down."""

_EXHAUSTED_SECONDS = 0.05
"""Pause after ``accept`` failed (no descriptor left): the connection stays queued, an unpaused loop would spin."""


class Server:
    """Serves the OCI layout in ``layout`` at ``address`` (host, port; port 0 takes a free one) until closed.

    The address is bound by the constructor, so :attr:`address` is known at once; requests are answered from
    :meth:`start` (or entering the context) to :meth:`close`. Raises :class:`~imgpull.StoreError` when the directory or
    the address can't be used, :class:`~imgpull.InvalidImageError` when the directory is no OCI layout.
    """

    def __init__(self, layout: Path | str, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._layout = LayoutReader(Path(layout))
        try:
            self._listener = _Listener(address, self._layout)
        except OSError as error:
            self._layout.close()
            raise StoreError(
                f"can't listen on {_joined(*address)}: {error.strerror or error}; choose another address"
            ) from None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """``host:port``, as it stands in a reference (an IPv6 host is in brackets)."""
        host, port = self._listener.server_address[:2]
        return _joined(str(host), int(port))

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def repositories(self) -> tuple[str, ...]:
        """The names that are served now."""
        return tuple(sorted(self._layout.names().repositories))

    def start(self) -> Self:
        """Begin to answer. A second call changes nothing."""
        if self._closed:
            raise StoreError("this server is closed; make another")
        if self._thread is None:
            name = f"imgpull-serve-{self._listener.server_port}"
            self._thread = threading.Thread(target=self._listener.accept_all, name=name, daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening, end every connection and join every thread. A second call changes nothing."""
        if self._closed:
            return
        self._closed = True
        self._listener.stop()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
        self._listener.server_close()
        self._layout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class _Listener(ThreadingHTTPServer):
    """One daemon thread per connection, each known by name and ended by :meth:`server_close`."""

    # A thousand clients may connect in the same instant; the kernel caps this at net.core.somaxconn.
    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, address: tuple[str, int], layout: LayoutReader) -> None:
        self.layout = layout
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._stopping = False
        self._numbers = itertools.count(1)
        # Guards _connections: filled by the accepting thread, emptied by each connection's own.
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for the name of the address, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)

    def accept_all(self) -> None:
        """Accept until :meth:`stop`. (``serve_forever`` polls twice a second to notice that it should end.)"""
        while not self._stopping:
            try:
                connection, peer = self.get_request()
            except OSError as error:
                if not self._stopping:
                    _log.info("accept failed: %s", error)
                    time.sleep(_EXHAUSTED_SECONDS)
                continue
            self.process_request(connection, peer)

    def process_request(self, request: Any, client_address: Any) -> None:
        name = f"imgpull-serve-{self.server_port}-{next(self._numbers)}"
        arguments = (request, client_address)
        thread = threading.Thread(target=self.process_request_thread, args=arguments, name=name, daemon=True)
        with self._lock:
            if self._stopping:
                self.shutdown_request(request)
                return
            self._connections[request] = thread
        try:
            thread.start()
        except RuntimeError as error:  # no thread to be had: this connection is refused, the others go on
            _log.info("connection from %s refused: %s", client_address, error)
            self._forget(request)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
        with self._lock:
            self._connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # A peer that went away is no event; anything else is a fault of ours, and its connection ends with it.
        level = logging.DEBUG if isinstance(error, OSError) else logging.INFO
        _log.log(level, "connection from %s ended: %r", client_address, error, exc_info=level > logging.DEBUG)

    def stop(self) -> None:
        """Accept nothing more."""
        with self._lock:
            self._stopping = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes accept on Linux
        except OSError:  # elsewhere it must be woken by a connection
            with contextlib.suppress(OSError):
                socket.create_connection((self.server_name, self.server_port), timeout=1).close()

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in connections.values():
            thread.join(max(0.0, deadline - time.monotonic()))


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
