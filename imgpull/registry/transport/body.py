"""The body of a response, read as it comes: raw, paced, and stoppable from another thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Self

import urllib3

from imgpull.errors import PullCancelledError, RegistryUnavailableError
from imgpull.registry.transport.failures import FAILURES, Crawled, unavailable
from imgpull.registry.transport.pool import Line

__all__ = ["Body"]

_ENOUGH = 64 * 1024
"""A read gathers at least this much where the caller has room: fewer, larger blocks are cheaper to digest and write,
and yet a slow line shows progress about as soon as it makes some."""
_PACE_WINDOW_SECONDS = 30.0
_PACE_BYTES = 30 * 1024
"""Less than 1 KiB/s over half a minute spent in reads counts as stuck. The socket's own timeout can't see that: it
starts again with every byte (encode/httpx#1450). Time that the reader spends elsewhere does not count."""


class Body:
    """Status, headers and body of one response; the body is what is on the wire, without content decoding.

    Life cycle: read to the end, or close; both give the connection back, the first for reuse. One thread reads,
    any may call :meth:`shutdown`.
    """

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        url: str,
        line: Line,
        on_end: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        """Case does not matter in names; equal names are joined with ``, ``."""
        self.url = url
        self._response = response
        self._line = line
        self._on_end = on_end
        self._clock = clock
        self._failure: BaseException | None = None
        self._window_seconds = 0.0
        self._window_bytes = 0
        self._ended = False

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes into ``buffer`` and return how many; 0 at the end of the body.

        Raises RegistryUnavailableError when the connection fails, ends early or crawls. Bytes that came before the
        failure are returned first, by the call before the one that raises. Raises PullCancelledError after
        :meth:`shutdown`.
        """
        if self._failure is not None:
            raise self._fail(self._failure)
        size = 0
        enough = min(len(buffer), _ENOUGH)
        while size < enough:
            try:
                block = self._receive(len(buffer) - size)
            except FAILURES as error:
                self._failure = error
                if size:
                    return size
                raise self._fail(error) from None
            if not block:
                self._end()
                break
            buffer[size : size + len(block)] = block
            size += len(block)
        return size

    def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        """The rest of the body, at most ``limit_bytes``, and whether there was more. The body is closed then."""
        with self:
            buffer = bytearray()
            block = memoryview(bytearray(min(limit_bytes + 1, _ENOUGH)))
            while len(buffer) <= limit_bytes:
                size = self.readinto(block[: limit_bytes + 1 - len(buffer)])
                if not size:
                    return bytes(buffer), False
                buffer += block[:size]
            return bytes(buffer[:limit_bytes]), True

    def shutdown(self) -> None:
        """Stop the exchange, from any thread: a reader that waits for bytes returns at once, with an error."""
        self._line.cut()

    def close(self) -> None:
        """Give up what was not read. A connection with bytes still to come is closed, never reused."""
        if not self._ended:
            self._line.detach()
            self._response.close()
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _receive(self, size_bytes: int) -> bytes:
        if self._ended:
            return b""
        if self._line.is_cut:
            raise ConnectionAbortedError
        began = self._clock()
        block = self._response.read1(size_bytes, decode_content=False)
        self._window_seconds += self._clock() - began
        self._window_bytes += len(block)
        if self._response.connection is None:  # the last byte came: the pool has the connection, maybe another user
            self._line.detach()
        if self._line.is_cut:  # the end we just met is the cut's own
            raise ConnectionAbortedError
        if self._window_seconds >= _PACE_WINDOW_SECONDS:
            if self._window_bytes < _PACE_BYTES:
                raise Crawled
            self._window_seconds, self._window_bytes = 0.0, 0
        return block

    def _fail(self, error: BaseException) -> PullCancelledError | RegistryUnavailableError:
        self.close()
        if self._line.is_cut:
            return PullCancelledError("the transfer was stopped")
        return unavailable(error, self.url)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._line.detach()
            self._response.release_conn()
            self._on_end()
