"""Digest: the name of content by its bytes, ``algorithm:encoded`` (image-spec descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

from imgpull.errors import InvalidImageError, UnsupportedMediaTypeError
from imgpull.oci.strict_json import shown

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Digest", "Hasher"]

# fullmatch everywhere: "$" would let a trailing newline through, and from there into a path.
_GRAMMAR = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<encoded>[a-zA-Z0-9=_-]+)", re.ASCII)


class Hasher(Protocol):
    """What hashlib's objects offer and this library uses."""

    @property
    def name(self) -> str: ...
    def update(self, data: ReadableBuffer, /) -> None: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


_HASHERS: dict[str, tuple[re.Pattern[str], Callable[[], Hasher], int]] = {
    "sha256": (re.compile(r"[0-9a-f]{64}"), hashlib.sha256, 64),
    "sha512": (re.compile(r"[0-9a-f]{128}"), hashlib.sha512, 128),
}


class Digest(str):
    """A digest that is known to be well formed, and safe as part of a path or URL.

    A ``str``: dictionary key, JSON and SQL value as it is. Construction raises InvalidImageError for a malformed
    text and UnsupportedMediaTypeError for a well-formed one with an algorithm other than sha256 and sha512.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if type(value) is cls:
            return value
        _check(value)
        return super().__new__(cls, value)

    @classmethod
    def of(cls, algorithm: str, encoded: str) -> Self:
        """The digest with this algorithm and these lower-case hex digits."""
        return cls(f"{algorithm}:{encoded}")

    @classmethod
    def of_bytes(cls, data: ReadableBuffer, algorithm: str = "sha256") -> Self:
        """The digest of ``data``. Raises UnsupportedMediaTypeError for an unknown algorithm."""
        hasher = _new_hasher(algorithm)
        hasher.update(data)
        return cls.of(algorithm, hasher.hexdigest())

    @classmethod
    def from_hasher(cls, hasher: Hasher) -> Self:
        """The digest of everything ``hasher`` was fed."""
        return cls.of(hasher.name, hasher.hexdigest())

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The lower-case hex digits."""
        return self.partition(":")[2]

    def hasher(self) -> Hasher:
        """A new hasher of this digest's algorithm: content is checked with the algorithm it was asked for with."""
        return _new_hasher(self.algorithm)

    def matches(self, data: ReadableBuffer) -> bool:
        """Whether ``data`` has this digest."""
        return Digest.of_bytes(data, self.algorithm) == self


def _new_hasher(algorithm: str) -> Hasher:
    known = _HASHERS.get(algorithm)
    if known is None:
        raise _unsupported(algorithm)
    return known[1]()


def _unsupported(algorithm: str) -> UnsupportedMediaTypeError:
    return UnsupportedMediaTypeError(f"digest algorithm {shown(algorithm)} is not supported; sha256 and sha512 are")


def _check(value: object) -> None:
    match = _GRAMMAR.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidImageError(f"{shown(value)} is no digest; one looks like sha256:<64 lower-case hex digits>")
    known = _HASHERS.get(match["algorithm"])
    if known is None:
        raise _unsupported(match["algorithm"])
    if known[0].fullmatch(match["encoded"]) is None:
        raise InvalidImageError(
            f"{shown(value)} is no digest; {match['algorithm']} takes {known[2]} lower-case hex digits"
        )
