"""Every exception imgpull raises. One root; families by what the caller can do about it.

::

    ImgpullError                                                             exit 1 unless said
    ├── InvalidReferenceError (ValueError) · InvalidPlatformError (ValueError)               2
    ├── RegistryError
    │   ├── RegistryUnavailableError (ConnectionError) · RateLimitedError                    1
    │   └── NotFoundError (LookupError)                                                      3
    │       UnauthorizedError (PermissionError) · InsecureTransportError                     4
    ├── ImageError
    │   ├── UnsupportedMediaTypeError · InvalidImageError (ValueError)                       1
    │   ├── PlatformNotFoundError (LookupError)                                              3
    │   └── PolicyRejectedError                                                              4
    ├── VerificationError                                                                    5
    │   └── DigestMismatchError · SizeMismatchError · DiffIDMismatchError
    ├── StoreError (OSError)
    │   ├── RefLockedError · AlreadyExistsError · SnapshotInUseError · StoreFullError        1
    │   ├── ContentNotFoundError · SnapshotNotFoundError · ImageNotFoundError (LookupError)  3
    │   └── StoreCorruptError                                                                5
    ├── UnpackError
    │   └── UnsafeEntryError · InvalidArchiveError · LimitExceededError                      1
    ├── PullTimeoutError · LockTimeoutError (TimeoutError)                                   6
    ├── OfflineError                                                                         7
    └── PullCancelledError                                                                 130

A message is one line: what is wrong, where, what to do. Facts are attributes, so nobody has to parse a message.
Every error pickles and can be copied: callers that waited for the same work each get an exception object of their own.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar, Self

__all__ = [
    "AlreadyExistsError",
    "ContentNotFoundError",
    "DiffIDMismatchError",
    "DigestMismatchError",
    "ImageError",
    "ImageNotFoundError",
    "ImgpullError",
    "InsecureTransportError",
    "InvalidArchiveError",
    "InvalidImageError",
    "InvalidPlatformError",
    "InvalidReferenceError",
    "LimitExceededError",
    "LockTimeoutError",
    "NotFoundError",
    "OfflineError",
    "PlatformNotFoundError",
    "PolicyRejectedError",
    "PullCancelledError",
    "PullTimeoutError",
    "RateLimitedError",
    "RefLockedError",
    "RegistryError",
    "RegistryUnavailableError",
    "SizeMismatchError",
    "SnapshotInUseError",
    "SnapshotNotFoundError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "UnauthorizedError",
    "UnpackError",
    "UnsafeEntryError",
    "UnsupportedMediaTypeError",
    "VerificationError",
]


def _rebuild(cls: type[ImgpullError], message: str, facts: dict[str, Any]) -> ImgpullError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    error.__dict__.update(facts)
    return error


class ImgpullError(Exception):
    """Root of the tree: ``except ImgpullError`` catches everything this library raises on purpose."""

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False
    """Whether the same work may well succeed when somebody starts it again."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), dict(self.__dict__))

    def copy(self) -> Self:
        """A fresh exception with the same facts and no traceback, for another caller to raise."""
        twin = _rebuild(type(self), str(self), dict(self.__dict__))
        assert isinstance(twin, type(self))
        twin.__cause__ = self.__cause__
        return twin


class InvalidReferenceError(ImgpullError, ValueError):
    """The text is no image reference (distribution/reference grammar)."""

    exit_code = 2


class InvalidPlatformError(ImgpullError, ValueError):
    """The text is no platform (``os/arch[/variant]``, containerd/platforms grammar)."""

    exit_code = 2


class RegistryError(ImgpullError):
    """A registry refused, failed or could not be reached."""

    def __init__(
        self,
        message: str,
        *,
        registry: str = "",
        status: int | None = None,
        code: str = "",
        retryable: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.registry = registry
        """The host (and port) that answered, or did not."""
        self.status = status
        """HTTP status, or None where no response came."""
        self.code = code
        """The error code of the distribution specification (``MANIFEST_UNKNOWN`` …), or empty."""
        self.retryable = retryable
        """Whether asking the same host again may help."""
        self.retry_after_seconds = retry_after_seconds
        """How long the registry wants to be left alone (``Retry-After``), or None where it did not say."""


class RegistryUnavailableError(RegistryError, ConnectionError):
    """No usable answer: unknown host, refused, reset, timed out, 5xx, or a blob still short after its attempts."""

    transient = True


class RateLimitedError(RegistryError):
    """429: the registry's quota is used up."""

    transient = True


class NotFoundError(RegistryError, LookupError):
    """The registry does not have this repository, manifest or blob."""

    exit_code = 3


class UnauthorizedError(RegistryError, PermissionError):
    """401 or 403 after authentication was tried."""

    exit_code = 4


class InsecureTransportError(RegistryError):
    """A redirect, token realm or downgrade that would leave TLS or cross an origin was refused."""

    exit_code = 4


class ImageError(ImgpullError):
    """The image itself can't be used."""

    def __init__(self, message: str, *, digest: str = "", media_type: str = "") -> None:
        super().__init__(message)
        self.digest = digest
        self.media_type = media_type


class UnsupportedMediaTypeError(ImageError):
    """A media type this version does not read (schema 1, an unknown layer compression …)."""


class InvalidImageError(ImageError, ValueError):
    """A manifest, index or config that breaks the OCI image specification."""


class PlatformNotFoundError(ImageError, LookupError):
    """The index holds no image for the platform that was asked for."""

    exit_code = 3

    def __init__(self, message: str, *, platform: str = "", available: tuple[str, ...] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.platform = platform
        self.available = available


class PolicyRejectedError(ImageError):
    """A signature or content policy says no."""

    exit_code = 4


class VerificationError(ImgpullError):
    """Bytes are not what their descriptor promises. They are never stored."""

    exit_code = 5

    def __init__(self, message: str, *, expected: str | int = "", actual: str | int = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class DigestMismatchError(VerificationError):
    """The digest of a blob differs from its descriptor's."""


class SizeMismatchError(VerificationError):
    """A blob is longer or shorter than its descriptor says."""


class DiffIDMismatchError(VerificationError):
    """The digest of a layer's uncompressed tar differs from the config's diff ID."""


class StoreError(ImgpullError, OSError):
    """The local store could not do it."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class RefLockedError(StoreError):
    """Another writer holds this ingest ref: unavailable, try again (containerd's ``ErrUnavailable``)."""

    transient = True

    def __init__(self, message: str, *, ref: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.ref = ref


class AlreadyExistsError(StoreError):
    """The blob, snapshot or key is there already."""

    def __init__(self, message: str, *, key: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.key = key


class SnapshotInUseError(StoreError):
    """A snapshot that has children, or is mounted or viewed, can't be removed."""


class StoreFullError(StoreError):
    """No space left on the store's file system (ENOSPC, EDQUOT)."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message, path=path)
        self.errno = errno.ENOSPC


class ContentNotFoundError(StoreError, LookupError):
    """The store has no such blob or ingest."""

    exit_code = 3


class SnapshotNotFoundError(StoreError, LookupError):
    """The store has no such snapshot."""

    exit_code = 3


class ImageNotFoundError(StoreError, LookupError):
    """The store has no such image for this platform."""

    exit_code = 3


class StoreCorruptError(StoreError):
    """A file of the store is damaged: remove the store and pull again, or pull into a new one."""

    exit_code = 5


class UnpackError(ImgpullError):
    """A layer can't be applied."""

    def __init__(self, message: str, *, layer: str = "", entry: str = "") -> None:
        super().__init__(message)
        self.layer = layer
        """Digest of the layer's blob."""
        self.entry = entry
        """Name of the tar entry, as in the archive."""


class UnsafeEntryError(UnpackError):
    """An entry that would act outside the root, or is refused by policy."""


class InvalidArchiveError(UnpackError):
    """The layer is no tar archive, is truncated, or its compression is damaged."""


class LimitExceededError(UnpackError):
    """More entries, bytes, depth … than :class:`imgpull.Limits` allows."""

    def __init__(self, message: str, *, limit: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.limit = limit
        """Name of the :class:`imgpull.Limits` field."""


class PullTimeoutError(ImgpullError, TimeoutError):
    """This call's ``timeout_seconds`` ran out; the work goes on where others wait for it."""

    exit_code = 6


class LockTimeoutError(ImgpullError, TimeoutError):
    """A key was not free within ``timeout_seconds``."""

    exit_code = 6

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class OfflineError(ImgpullError):
    """It is not here, and fetching is not allowed (``policy="never"``, ``IMGPULL_OFFLINE=1``)."""

    exit_code = 7


class PullCancelledError(ImgpullError):
    """The caller cancelled."""

    exit_code = 130
