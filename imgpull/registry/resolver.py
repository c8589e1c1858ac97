"""From a reference to a digest: HEAD, then GET where HEAD does not say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgpull.oci import Digest

if TYPE_CHECKING:
    from imgpull.locking import Cancellation
    from imgpull.reference import Reference
    from imgpull.registry.client import OnRequest, RegistryClient

__all__ = ["Resolution", "Resolver"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a reference stood for when it was resolved."""

    digest: Digest
    media_type: str | None = None
    """None where nobody was asked, or where GET came without a Content-Type."""
    size_bytes: int | None = None
    raw: bytes | None = field(default=None, repr=False)
    """The document, where resolving took a GET: it needs no second one."""


class Resolver:
    """Resolves references."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def resolve(
        self, reference: Reference, cancel: Cancellation | None = None, on_request: OnRequest | None = None
    ) -> Resolution:
        """The digest behind ``reference``: its own without asking anybody, else the tag's by one HEAD or, failing
        that, one GET. Raises as ``RegistryClient.get_manifest``."""
        if reference.digest is not None:
            return Resolution(reference.digest)
        described = self._client.head_manifest(reference, cancel)
        if described is not None:
            return Resolution(described.digest, described.media_type, described.size_bytes)
        raw, content_type = self._client.get_manifest(reference, None, cancel, on_request)
        # The digest is the body's, whatever Docker-Content-Digest says of it.
        return Resolution(Digest.of_bytes(raw), content_type or None, len(raw), raw)
