"""A line of some latency and rate before a registry, as a proxy for TCP: a process of its own, standard library only.

The kernel's own shaper (``tc … netem``) is not built into every kernel, needs root and a network namespace, and takes
the registry off loopback, where some peers want certificates. A proxy works for everybody alike.

A byte arrives half the latency after it was sent, and a new connection costs one latency, as a handshake does. All
connections share one rate, towards the puller; what the puller sends is small and free. TCP's slow start is not
modelled: a connection has the whole rate at once.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.origin import ROOT, OriginError

__all__ = ["Bucket", "Line", "Proxy", "proxy"]

_BLOCK = 64 * 1024
_IN_FLIGHT = 64
"""Blocks that a connection may have on the line: 4 MiB, more than rate × latency of any line one would try."""
_MARGIN = 1024
"""Bytes in one go, below which nothing of a blob arrives: an answer to HEAD, or the end of a connection."""


@dataclass(frozen=True, slots=True)
class Line:
    """Of both directions together ``latency_seconds``; ``rate_bytes`` a second towards the puller."""

    latency_seconds: float
    rate_bytes: float

    @property
    def description(self) -> str:
        return f"{self.latency_seconds * 1000:g} ms and {self.rate_bytes / 1e6:g} MB/s"


class Bucket:
    """Who may send when: all connections on one line, first come, first served."""

    def __init__(self, rate_bytes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_bytes = rate_bytes
        self._clock = clock
        self._lock = threading.Lock()  # guards _free_at
        self._free_at = 0.0

    def slot(self, count: int, not_before: float) -> float:
        """When the last of ``count`` bytes has passed, if they come at ``not_before``."""
        with self._lock:
            self._free_at = max(self._free_at, not_before, self._clock()) + count / self._rate_bytes
            return self._free_at


class _Last:
    """When bytes were last handed to the puller, and how many in all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both
        self._at = 0.0
        self._bytes = 0

    def note(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            if count >= _MARGIN:
                self._at = time.monotonic()

    def fields(self) -> dict[str, Any]:
        with self._lock:
            return {"last_byte_at": self._at, "bytes": self._bytes}


class Proxy:
    """Listens on a free port of 127.0.0.1 and leads to ``target``. :meth:`serve` does not return."""

    def __init__(self, target: tuple[str, int], line: Line) -> None:
        self._target = target
        self._line = line
        self._bucket = Bucket(line.rate_bytes)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.last = _Last()

    @property
    def address(self) -> str:
        host, port = self._listening.getsockname()[:2]
        return f"{host}:{port}"

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _connect(self, client: socket.socket) -> None:
        came = time.monotonic()
        try:
            origin = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        for end in (client, origin):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        half = self._line.latency_seconds / 2
        handshake = came + self._line.latency_seconds

        def asked(_: int, now: float) -> float:
            return max(handshake, now) + half

        def answered(count: int, now: float) -> float:
            return self._bucket.slot(count, now + half)

        def quiet(_: int) -> None:
            pass

        back = threading.Thread(target=_carry, args=(origin, client, answered, self.last.note), daemon=True)
        back.start()
        _carry(client, origin, asked, quiet)
        back.join()
        client.close()
        origin.close()


def _carry(
    source: socket.socket,
    target: socket.socket,
    due: Callable[[int, float], float],
    handed: Callable[[int], None],
) -> None:
    """Bytes from one end to the other, each block at the time that ``due`` says; then the end of the stream."""
    blocks: queue.Queue[tuple[float, bytes]] = queue.Queue(_IN_FLIGHT)

    def read() -> None:
        data = b"x"
        while data:
            try:
                data = source.recv(_BLOCK)
            except OSError:
                data = b""
            now = time.monotonic()
            blocks.put((due(len(data), now), data))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    broken = False
    while True:
        at, data = blocks.get()
        if not data:
            break
        if broken:  # read on, or the other end would wait for ever
            continue
        time.sleep(max(0.0, at - time.monotonic()))
        try:
            target.sendall(data)
        except OSError:
            broken = True
            with contextlib.suppress(OSError):
                source.shutdown(socket.SHUT_RDWR)
        else:
            handed(len(data))
    reader.join()
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Shaped:
    """The running proxy, asked from outside its process."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process = process
        self.address = address

    def last_byte(self) -> dict[str, Any]:
        """``last_byte_at``, by the clock ``time.monotonic``, and ``bytes`` handed over until now."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def proxy(address: str, line: Line) -> Iterator[Shaped]:
    """A proxy before the registry at ``address``, for the block. Raises OriginError where it does not start."""
    command = [sys.executable, "-m", "benchmarks.shaped.proxy", address]
    command += [str(line.latency_seconds), str(line.rate_bytes)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        first = process.stdout.readline()
        if not first:
            raise OriginError("the shaping proxy did not start; its message is above")
        yield Shaped(process, str(json.loads(first)["address"]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _main(address: str, latency_seconds: str, rate_bytes: str) -> None:
    """Answers each line on standard input, and ends with it."""
    host, _, port = address.rpartition(":")
    made = Proxy((host, int(port)), Line(float(latency_seconds), float(rate_bytes)))
    threading.Thread(target=made.serve, daemon=True).start()
    print(json.dumps({"address": made.address}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(made.last.fields()), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
