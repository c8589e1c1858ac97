"""HTTP/1.1 by hand: keep-alive, a thread per connection, and every way a server can misbehave on the wire.

A :class:`Reply` is sent piece by piece. A piece is bytes, or something that happens there: a :class:`Gate` (wait until
the test opens it), ``RESET`` (the connection ends with a TCP reset) or ``CLOSE`` (it ends in good order).

    Reply(200, body=blob, pieces=(blob[:100], gate, blob[100:]))       stalls after 100 bytes
    Reply(200, body=blob, pieces=(blob[:100], CLOSE))                  promises all by Content-Length, sends 100 bytes
    Reply(before=(RESET,))                                             no answer at all
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote, urlsplit

DEADLINE_SECONDS = 20.0
_TLS_HANDSHAKE = b"\x16"


class Ending(enum.Enum):
    """How a connection ends before its answer does."""

    RESET = "reset"
    CLOSE = "close"


RESET, CLOSE = Ending.RESET, Ending.CLOSE


class Gate:
    """A place where answers wait. ``reached`` tells the test that one stands there; ``open()`` lets all go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        """Let those who wait go on, and those to come pass."""
        self._opened.set()

    def wait_reached(self) -> None:
        """Wait until an answer stands here; fail when none comes."""
        assert self._reached.wait(DEADLINE_SECONDS), "no answer came to the gate"

    def arrive(self) -> None:
        """The server's side: stand here until the gate is opened."""
        self._reached.set()
        self._opened.wait()


Piece = bytes | Gate | Ending


@dataclass(frozen=True)
class Reply:
    """An answer. ``Content-Length`` is that of ``body``, whatever ``pieces`` sends, unless a header says otherwise."""

    status: int = 200
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    body: bytes = b""
    pieces: Sequence[Piece] | None = None
    """What is sent instead of ``body``."""
    before: Sequence[Piece] = ()
    """What happens before the status line; bytes here are sent as they are."""
    chunked: bool = False
    until_close: bool = False
    """No Content-Length: the end of the connection is the end of the body."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The headers, as pairs."""
        return list(self.headers.items() if isinstance(self.headers, Mapping) else self.headers)

    def header(self, name: str) -> str:
        """A header's value, or empty."""
        return next((value for key, value in self.pairs if key.lower() == name.lower()), "")

    def with_headers(self, **headers: str) -> Reply:
        """The same with these headers, ``_`` standing for ``-``, put in the place of equal ones."""
        names = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        kept = [(name, value) for name, value in self.pairs if name.lower() not in names]
        return replace(self, headers=[*kept, *names.items()])


@dataclass
class Request:
    """A request as it came, and what became of it."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""
    status: int = 0
    """Of the answer; 0 as long as there is none."""
    bytes_sent: int = 0
    """Of the answer's body."""
    connection: int = 0
    """Counts the server's connections; equal numbers came over one."""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    def without(self, name: str) -> Request:
        """The same request without one header, for asking what the answer would then have been."""
        return replace(self, headers={key: value for key, value in self.headers.items() if key != name.lower()})


class _Hangup(Exception):
    def __init__(self, ending: Ending) -> None:
        self.ending = ending


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    number: int
    thread: threading.Thread | None = None
    gates: list[Gate] = field(default_factory=list)


class WireServer:
    """Answers every request with what ``respond`` makes of it. ``with`` it, or ``start()`` and ``close()``."""

    def __init__(
        self, respond: Callable[[Request], Reply], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self._respond = respond
        self._tls = tls
        self._listener = socket.create_server((host, 0), backlog=256)
        self.host, self.port = self._listener.getsockname()[:2]
        self.address = f"{host}:{self.port}"
        self._lock = threading.Lock()  # guards _connections, _count and _closing
        self._connections: set[_Connection] = set()
        self._count = 0
        self._closing = False
        self._acceptor = threading.Thread(target=self._accept, name=f"fake-registry-{self.port}", daemon=True)

    @property
    def connections(self) -> int:
        """How many connections were ever accepted."""
        return self._count

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        with self._lock:
            return len(self._connections)

    def start(self) -> None:
        self._acceptor.start()

    def close(self) -> None:
        """End every connection, open every gate that one waits at, and join every thread."""
        with self._lock:
            self._closing = True
            connections = list(self._connections)
        with contextlib.suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=1).close()  # wakes accept() on every system
        self._acceptor.join(DEADLINE_SECONDS)
        self._listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            for gate in list(connection.gates):
                gate.open()
        for connection in connections:
            if connection.thread is not None:
                connection.thread.join(DEADLINE_SECONDS)
                assert not connection.thread.is_alive(), f"{connection.thread.name} still runs"

    def _accept(self) -> None:
        while True:
            accepted, _ = self._listener.accept()
            with self._lock:
                if self._closing:
                    accepted.close()
                    return
                self._count += 1
                connection = _Connection(accepted, self._count)
                self._connections.add(connection)
                connection.thread = threading.Thread(
                    target=self._serve, args=(connection,), name=f"fake-connection-{self._count}", daemon=True
                )
                connection.thread.start()

    def _serve(self, connection: _Connection) -> None:
        ending = CLOSE
        try:
            if self._tls is not None:
                connection.socket = self._tls.wrap_socket(connection.socket, server_side=True)
            elif connection.socket.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                connection.socket.recv(64 * 1024)
                connection.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # as Go's net/http does
                return
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection.socket.makefile("rb") as reader:
                while (request := _read_request(reader)) is not None:
                    request.connection = connection.number
                    if not _send(connection, request, self._respond(request)):
                        break
        except _Hangup as hangup:
            ending = hangup.ending
        except (OSError, ssl.SSLError):
            pass  # the client went away
        finally:
            if ending is RESET:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.socket.close()
            with self._lock:
                self._connections.discard(connection)


def _read_request(reader: Iterable[bytes]) -> Request | None:
    line = reader.readline()  # type: ignore[attr-defined]
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while line := reader.readline().decode("latin-1").rstrip("\r\n"):  # type: ignore[attr-defined]
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]
    return Request(method, target, headers, body)


def _send(connection: _Connection, request: Request, reply: Reply) -> bool:
    """Send the answer; return whether the connection can serve another request."""
    for piece in reply.before:
        _send_piece(connection, piece)
    request.status = reply.status
    connection.socket.sendall(_head(reply))
    if request.method != "HEAD":
        for piece in (reply.body,) if reply.pieces is None else reply.pieces:
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if reply.chunked and isinstance(piece, bytes) else piece
            if piece:
                _send_piece(connection, framed)
            if isinstance(piece, bytes):
                request.bytes_sent += len(piece)
        if reply.chunked:
            connection.socket.sendall(b"0\r\n\r\n")
    return not reply.until_close and reply.header("Connection").lower() != "close"


def _send_piece(connection: _Connection, piece: Piece) -> None:
    if isinstance(piece, Gate):
        connection.gates.append(piece)
        piece.arrive()
        connection.gates.remove(piece)
    elif isinstance(piece, Ending):
        raise _Hangup(piece)
    else:
        connection.socket.sendall(piece)


def _head(reply: Reply) -> bytes:
    pairs = reply.pairs
    names = {name.lower() for name, _ in pairs}
    if reply.chunked:
        pairs.append(("Transfer-Encoding", "chunked"))
    elif not reply.until_close and "content-length" not in names:
        pairs.append(("Content-Length", str(len(reply.body))))
    if reply.until_close:
        pairs.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
