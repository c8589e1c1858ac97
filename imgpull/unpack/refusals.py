"""The sentences in which an entry is refused: what is wrong, in which layer and entry, what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imgpull.errors import (
    ImgpullError,
    InvalidArchiveError,
    LimitExceededError,
    StoreError,
    StoreFullError,
    UnsafeEntryError,
)

__all__ = ["exceeded", "from_os_error", "invalid", "typed_errors", "unsafe"]

_SHOWN_CHARACTERS = 200
_UNSAFE = {
    errno.ENAMETOOLONG: "has a name or link target longer than the file system takes",
    errno.ELOOP: "leads through too many symbolic links",
    errno.EMLINK: "is one hard link more than the file system takes",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)


def _where(layer: str, name: bytes) -> str:
    text = os.fsdecode(name)
    # repr keeps control characters of a hostile name off the terminal, and the message on one line.
    shown = repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")
    return f"layer {layer}, entry {shown}"


def unsafe(layer: str, name: bytes, what: str) -> UnsafeEntryError:
    """It would act outside the root, or policy refuses it."""
    message = f"{_where(layer, name)} {what}: refused, don't trust this image"
    return UnsafeEntryError(message, layer=layer, entry=os.fsdecode(name))


def invalid(layer: str, name: bytes, what: str) -> InvalidArchiveError:
    """It is no valid archive at this entry."""
    message = f"{_where(layer, name)} {what}: the image must be built again"
    return InvalidArchiveError(message, layer=layer, entry=os.fsdecode(name))


def exceeded(layer: str, name: bytes, what: str, limit: str) -> LimitExceededError:
    """It exceeds ``Limits.<limit>``."""
    message = f"{_where(layer, name)} {what}; if the image is trusted, raise Limits.{limit}"
    return LimitExceededError(message, limit=limit, layer=layer, entry=os.fsdecode(name))


def from_os_error(layer: str, name: bytes, error: OSError) -> ImgpullError:
    """What the kernel refused, as one of our own errors."""
    what = _UNSAFE.get(error.errno or 0)
    if what is not None:
        return unsafe(layer, name, what)
    if error.errno in _FULL:
        return StoreFullError(f"{_where(layer, name)}: no space left in the store: free some, then pull again")
    if error.errno in _TOO_MANY_OPEN:
        what = "too many files are open: raise the limit (ulimit -n), or unpack fewer layers at once"
        return StoreError(f"{_where(layer, name)} can't be unpacked, {what}")
    reason = error.strerror or type(error).__name__
    return StoreError(f"{_where(layer, name)} can't be unpacked ({reason}): check the store's file system")


@contextmanager
def typed_errors(layer: str, name: bytes | Callable[[], bytes]) -> Iterator[None]:
    """Raises what the kernel refuses in the block as one of our own errors; ``name`` is the entry's."""
    try:
        yield
    except ImgpullError:
        raise
    except OSError as error:
        raise from_os_error(layer, name if isinstance(name, bytes) else name(), error) from error
