"""A blob's body: where it really begins, and never one byte more than its descriptor promises."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from imgpull.errors import RegistryUnavailableError, SizeMismatchError, UnauthorizedError
from imgpull.registry.exchange import Exchange, Question

if TYPE_CHECKING:
    from imgpull.locking import Cancellation
    from imgpull.oci import Descriptor
    from imgpull.registry.hosts import Host
    from imgpull.registry.transport.body import Body

__all__ = ["BlobResponse", "open_blob"]

_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)


class BlobResponse:
    """A blob on its way. One thread reads; any may :meth:`shutdown`. Close it, or use it in a ``with``."""

    def __init__(self, host: Host, descriptor: Descriptor, offset_bytes: int, body: Body) -> None:
        self.host = host
        """Who sends it: where the bytes turn out wrong, ask ``open_blob`` to ``avoid`` ``host.address``."""
        self.digest = descriptor.digest
        self.size_bytes = descriptor.size_bytes
        """Of the whole blob."""
        self.offset_bytes = offset_bytes
        """Where the body begins: as asked, or 0 where the server would not begin there. Never in between."""
        self._position = offset_bytes
        self._body = body

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes into ``buffer`` and return how many; 0 once the blob is complete, and only then.

        Raises RegistryUnavailableError (``retryable``) when the body fails, stalls or ends early; what came before is
        returned first. SizeMismatchError when there is more than the descriptor says. PullCancelledError after
        :meth:`shutdown`.
        """
        remaining = self.size_bytes - self._position
        # One byte more than is promised shows that there is more; reading the rest of it would show nothing else.
        size = self._body.readinto(buffer[: remaining + 1])
        if size > remaining:
            self._body.close()
            raise _too_long(self.host, self.digest, self.size_bytes)
        if not size and remaining:
            raise RegistryUnavailableError(
                f"{self.host.credential_name}: blob {self.digest} ended after {self._position} of {self.size_bytes}"
                " bytes; try again later",
                registry=self.host.credential_name,
                retryable=True,
            )
        self._position += size
        return size

    def shutdown(self) -> None:
        """Stop it, from any thread: a reader that waits for bytes returns at once, with PullCancelledError."""
        self._body.shutdown()

    def close(self) -> None:
        """Give up what was not read."""
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_blob(
    exchange: Exchange, question: Question, descriptor: Descriptor, offset_bytes: int, cancel: Cancellation | None
) -> BlobResponse:
    """Ask one host for a blob from ``offset_bytes`` on: one attempt, with one second chance where the first answer
    says that the question was wrong and not the host: a link that ran out, a range that it can't serve."""
    offset = offset_bytes if 0 < offset_bytes < descriptor.size_bytes else 0
    try:
        return _open(exchange, question, descriptor, offset, cancel)
    except _RangeRefused:
        return _open(exchange, question, descriptor, 0, cancel)
    except UnauthorizedError as error:
        if not error.retryable:
            raise
    try:
        return _open(exchange, question, descriptor, offset, cancel)
    except _RangeRefused:
        return _open(exchange, question, descriptor, 0, cancel)
    except UnauthorizedError as error:
        error.retryable = False  # a fresh link was refused too
        raise


class _RangeRefused(Exception):
    """The part that was asked for can't be had; the whole may."""


def _open(
    exchange: Exchange, question: Question, descriptor: Descriptor, offset: int, cancel: Cancellation | None
) -> BlobResponse:
    try:
        body = exchange.stream(question, range_from=offset, cancel=cancel)
    except RegistryUnavailableError as error:
        if offset and error.status == _RANGE_NOT_SATISFIABLE:
            raise _RangeRefused from None
        raise
    try:
        start = _start(question, body, offset, descriptor.size_bytes)
        _check_length(question, body, descriptor, start)
    except BaseException:
        body.close()
        raise
    return BlobResponse(question.host, descriptor, start, body)


def _start(question: Question, body: Body, offset: int, size_bytes: int) -> int:
    """Where the body begins. A part is only taken where its headers leave no doubt (RFC 9110 §14.4, §15.3.7)."""
    if body.status != _PARTIAL:
        return 0
    if not offset:
        raise RegistryUnavailableError(
            f"{question.host.credential_name}: sent a part of {question.what} when asked for all; try again later",
            registry=question.host.credential_name,
            status=body.status,
            retryable=True,
        )
    match = _CONTENT_RANGE.fullmatch(body.headers.get("Content-Range", ""))
    if match is None:
        raise _RangeRefused
    first, last = int(match[1]), int(match[2])
    if first != offset or not first <= last < size_bytes or match[3] not in ("*", str(size_bytes)):
        raise _RangeRefused
    return offset


def _check_length(question: Question, body: Body, descriptor: Descriptor, start: int) -> None:
    """A length that is too great needs no reading. One that is too small is met at the end, after what did come."""
    length = body.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > descriptor.size_bytes - start:
        raise _too_long(question.host, descriptor.digest, descriptor.size_bytes)


def _too_long(host: Host, digest: str, size_bytes: int) -> SizeMismatchError:
    return SizeMismatchError(
        f"{host.credential_name}: blob {digest} is longer than the {size_bytes} bytes of its descriptor; tell whoever"
        " published it",
        expected=size_bytes,
        actual=size_bytes + 1,
    )
