"""What registries said, for the processes that waited while one of them asked.

One small file per key below ``<root>/resolved/``, replaced by rename. It is no memory: whoever reads it uses it only
where the question was *sent* after his own call began, and asks for himself otherwise. So a lost or damaged file costs
a question, nothing is synced, and what an earlier boot left behind says nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass

from imgpull.errors import ImageError
from imgpull.locking.moments import clock_name
from imgpull.oci import Digest
from imgpull.store.filesystem import make_directory, replace_file

__all__ = ["Answer", "Answers"]

_NAME_DIGITS = 2
"""At most 256 files, however many tags there are: two keys that share a name cost each other a question."""
_MOST_BYTES = 4096
_logger = logging.getLogger("imgpull.store")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question."""

    sent_ns: int
    """When it was sent, or a little earlier (:func:`imgpull.locking.now_ns`)."""
    digest: Digest | None
    """None where it failed: why is not told, each may find out for himself."""
    media_type: str | None = None
    size_bytes: int | None = None


class Answers:
    """The files below ``root``. Writers of one key exclude each other by the key's lock, readers need none."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._directory = f"{os.fspath(root)}/resolved"
        self._clock = clock_name()

    def read(self, key: str) -> Answer | None:
        """The last answer to ``key`` that this boot knows of."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, ImageError):
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as file:
                said = json.loads(file.read(_MOST_BYTES))
            if self._clock is None or (said["clock"], said["key"]) != (self._clock, key):
                return None
            digest = None if said["digest"] is None else Digest(said["digest"])
            return Answer(int(said["sent_ns"]), digest, said["media_type"], said["size_bytes"])
        return None

    def write(self, key: str, answer: Answer) -> None:
        """Publish an answer. What goes wrong is logged: the others will ask."""
        if self._clock is None:
            return
        said = {
            "key": key,
            "clock": self._clock,
            "sent_ns": answer.sent_ns,
            "digest": answer.digest,
            "media_type": answer.media_type,
            "size_bytes": answer.size_bytes,
        }
        path = self._path(key)
        unfinished = f"{path}.{_digits(key)[_NAME_DIGITS:16]}"  # the key's own: one that was killed leaves one at most
        try:
            make_directory(self._directory)
            replace_file(path, unfinished, json.dumps(said).encode())
        except OSError as error:
            _logger.info("%s was not written: %s", path, error)
            with contextlib.suppress(OSError):
                os.unlink(unfinished)

    def _path(self, key: str) -> str:
        return f"{self._directory}/{_digits(key)[:_NAME_DIGITS]}"


def _digits(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
