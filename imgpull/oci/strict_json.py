"""JSON as the OCI image specification means it (I-JSON, RFC 7493), and getters that name the field they refuse.

Python's ``json`` alone reads UTF-16, takes the last of two equal names, and knows ``NaN``: each of these gives one
document two meanings, one for the reader who checked it and one for the reader who runs it. Here they are errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from imgpull.errors import InvalidImageError

__all__ = [
    "FrozenMap",
    "array",
    "boolean",
    "integer",
    "loads",
    "mapping",
    "mapping_of_text",
    "shown",
    "text",
    "texts",
]

MAX_INTEGER = 2**63 - 1
"""Sizes are int64 in the specification's own types (specs-go/v1 ``Descriptor.Size``)."""

_SHOWN_CHARACTERS = 80
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89abABcdefCDEF]")


def shown(value: object) -> str:
    """``value`` for a one-line message: quoted, printable ASCII, at most some 80 characters.

    Registry data ends up in errors and on terminals; neither a newline nor an escape sequence may come along.
    """
    quoted = ascii(value if len(str(value)) <= _SHOWN_CHARACTERS else str(value)[:_SHOWN_CHARACTERS])
    return quoted if len(str(value)) <= _SHOWN_CHARACTERS else f"{quoted[:-1]}…{quoted[-1]}"


def loads(raw: bytes, what: str) -> object:
    """The value ``raw`` holds. ``what`` says in a message which document it is.

    Raises InvalidImageError for anything but one JSON text in UTF-8 without byte order mark, duplicate names,
    lone surrogates, NaN, infinities, or more nesting or digits than Python takes.
    """
    try:
        value: object = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_names,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise InvalidImageError(f"{what} is not usable: JSON nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, too many digits, and the hooks' own
        raise InvalidImageError(f"{what} is not valid JSON: {_reason(error)}") from None
    if _SURROGATE_ESCAPE.search(raw):
        _refuse_lone_surrogates(value, what)
    return value


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return str(error).splitlines()[0]


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {shown(twice)} appears twice in one object")
    return members


def _refuse_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no JSON number")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"the number {shown(literal)} is out of range")
    return number


def _refuse_lone_surrogates(value: object, what: str) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if any("\ud800" <= character <= "\udfff" for character in item):
                raise InvalidImageError(f"{what} is not valid JSON: the string {shown(item)} holds a lone surrogate")
        elif isinstance(item, dict):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list):
            pending += item


class FrozenMap(Mapping[str, str]):
    """A mapping of strings that can't change, pickles, and can be a key (``MappingProxyType`` does neither)."""

    __slots__ = ("_members",)
    _members: dict[str, str]

    def __init__(self, members: Mapping[str, str] | None = None) -> None:
        object.__setattr__(self, "_members", dict(members or {}))

    def __getitem__(self, name: str) -> str:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def __hash__(self) -> int:
        return hash(frozenset(self._members.items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._members!r})"

    def __reduce__(self) -> tuple[type[FrozenMap], tuple[dict[str, str]]]:
        return type(self), (self._members,)


def _wrong(what: str, name: str, wanted: str, value: object) -> InvalidImageError:
    return InvalidImageError(f"{what}: {name} must be {wanted}, not {shown(value)}")


# Each getter takes None for "absent or null": Go, which writes nearly all of these documents, marshals a nil slice
# or map as null and reads null as absent. Without a default an absent field is an error.


def _member(obj: Mapping[str, object], name: str, what: str, required: bool) -> object:
    value = obj.get(name)
    if value is None and required:
        raise InvalidImageError(f"{what}: {name} is missing")
    return value


def text(obj: Mapping[str, object], name: str, what: str, default: str | None = None) -> str:
    """The string at ``name``; ``default`` where it is absent (no default: InvalidImageError)."""
    value = _member(obj, name, what, default is None)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise _wrong(what, name, "a string", value)
    return value


def integer(obj: Mapping[str, object], name: str, what: str, default: int | None = None) -> int:
    """The integer at ``name``, 0 to 2⁶³-1. ``1e3``, ``1.0``, ``true`` and ``"12"`` are not integers here."""
    value = _member(obj, name, what, default is None)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
        raise _wrong(what, name, "an integer from 0 to 2^63-1", value)
    return value


def boolean(obj: Mapping[str, object], name: str, what: str, default: bool = False) -> bool:
    """The boolean at ``name``; ``default`` where it is absent."""
    value = obj.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(what, name, "true or false", value)
    return value


def mapping(
    obj: Mapping[str, object], name: str, what: str, default: dict[str, object] | None = None
) -> dict[str, object]:
    """The object at ``name``; ``default`` where it is absent (no default: InvalidImageError)."""
    value = _member(obj, name, what, default is None)
    if value is None and default is not None:
        return default
    if not isinstance(value, dict):
        raise _wrong(what, name, "an object", value)
    return value


def array(obj: Mapping[str, object], name: str, what: str, default: list[object] | None = None) -> list[object]:
    """The array at ``name``; ``default`` where it is absent (no default: InvalidImageError)."""
    value = _member(obj, name, what, default is None)
    if value is None and default is not None:
        return default
    if not isinstance(value, list):
        raise _wrong(what, name, "an array", value)
    return value


def texts(obj: Mapping[str, object], name: str, what: str) -> tuple[str, ...]:
    """The array of strings at ``name``; empty where it is absent."""
    items = array(obj, name, what, default=[])
    for item in items:
        if not isinstance(item, str):
            raise _wrong(what, name, "an array of strings", item)
    return tuple(item for item in items if isinstance(item, str))


def mapping_of_text(obj: Mapping[str, object], name: str, what: str) -> FrozenMap:
    """The object of strings at ``name`` (annotations, labels); empty where it is absent."""
    members = mapping(obj, name, what, default={})
    for value in members.values():
        if not isinstance(value, str):
            raise _wrong(what, name, "an object of strings", value)
    return FrozenMap({key: value for key, value in members.items() if isinstance(value, str)})
