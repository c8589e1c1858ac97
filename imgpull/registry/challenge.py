"""``WWW-Authenticate`` (RFC 9110 §11.6.1): a list of challenges, each a scheme with parameters or a token68.

The grammar has one trap: commas separate both challenges and the parameters within one. A word followed by ``=`` is a
parameter, any other begins a challenge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["Challenge", "parse_challenges"]

_LONGEST = 16 * 1024
"""Characters of the header; the longest seen in practice are under 1 KiB."""
_MOST_CHALLENGES = 16
_MOST_PARAMETERS = 32

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Each alternative begins with a character the others can't, so there is nothing to backtrack into.
_PARAMETER = re.compile(
    rf"(?P<name>{_TOKEN})[ \t]*=[ \t]*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>{_TOKEN}))[ \t]*(?=,|$)",
    re.ASCII,
)
_SCHEME = re.compile(rf"(?P<scheme>{_TOKEN})(?:[ \t]+|[ \t]*(?=,|$))", re.ASCII)
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)", re.ASCII)
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)*")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that the server offers."""

    scheme: str
    """In lower case: ``bearer``, ``basic``."""
    parameters: Mapping[str, str]
    """Names in lower case; of two equal names the first counts, as it does for whoever checked it first."""


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of a header, or of several joined with commas, in order.

    What can't be read ends the list: what came before still counts, nothing raises, whatever a server sends. Longer
    headers than 16 KiB, and ones with control characters, yield nothing.
    """
    if len(header) > _LONGEST or not header.replace("\t", " ").isprintable():
        return ()
    challenges: list[Challenge] = []
    position = _skip(header, 0)
    while position < len(header) and len(challenges) < _MOST_CHALLENGES:
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            break
        parameters, position = _parameters(header, scheme.end())
        challenges.append(Challenge(scheme["scheme"].lower(), MappingProxyType(parameters)))
    return tuple(challenges)


def _parameters(header: str, position: int) -> tuple[dict[str, str], int]:
    """The parameters from ``position`` on, and where the next challenge begins."""
    found: dict[str, str] = {}
    if _PARAMETER.match(header, position) is None:
        token68 = _TOKEN68.match(header, position)
        return found, _skip(header, token68.end() if token68 else position)
    while (match := _PARAMETER.match(header, position)) is not None and len(found) < _MOST_PARAMETERS:
        quoted = match["quoted"]
        value = match["plain"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        found.setdefault(match["name"].lower(), value)
        position = _skip(header, match.end())
    return found, position


def _skip(header: str, position: int) -> int:
    match = _SEPARATOR.match(header, position)
    return match.end() if match else position
