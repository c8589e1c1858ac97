"""Which kind of document a registry sent: manifest or index, and never both.

One document that a scanner reads as a manifest and a runtime as an index is CVE-2021-41190. So everything that says
what it is must agree: Content-Type, the descriptor that led here, the ``mediaType`` field and the shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from imgpull.errors import InvalidImageError, UnsupportedMediaTypeError
from imgpull.oci import media_types
from imgpull.oci.digest import Digest
from imgpull.oci.strict_json import integer, loads, shown, text

__all__ = ["Document", "Kind", "read"]

Kind = Literal["manifest", "index"]

_A: dict[Kind, str] = {"manifest": "a manifest", "index": "an index"}
_SCHEMA_VERSION = 2
_TELLING = {name.lower(): name for name in ("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers")}


@dataclass(frozen=True, slots=True)
class Document:
    """A document of known kind, not yet parsed further. ``digest`` is that of the bytes as they came."""

    kind: Kind
    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest
    members: dict[str, object] = field(repr=False, compare=False)

    @property
    def what(self) -> str:
        """Its name in messages."""
        return f"{self.kind} {self.digest}"


def read(
    raw: bytes,
    content_type: str | None = None,
    descriptor_media_type: str | None = None,
    *,
    algorithm: str = "sha256",
    expected: Kind | None = None,
) -> Document:
    """Reads ``raw`` and decides what it is.

    ``algorithm`` is that of the digest it was asked for by. Generic content types (``application/json``,
    ``text/plain`` …) are taken for no statement. Raises InvalidImageError for a document that is malformed, means
    two things or is not ``expected``; UnsupportedMediaTypeError for schema 1 and for types we don't read.
    """
    digest = Digest.of_bytes(raw, algorithm)
    what = f"document {digest}"
    members = loads(raw, what)
    if not isinstance(members, dict):
        raise InvalidImageError(f"{what} is no manifest or index: not a JSON object", digest=digest)
    claims = _claims(members, what, content_type, descriptor_media_type)
    _refuse_schema1(members, claims, digest)
    _refuse_lookalikes(members, what)
    media_type = _agreed(claims, digest)
    kind = _shape(members, digest)
    media_type = media_type or (media_types.OCI_INDEX if kind == "index" else media_types.OCI_MANIFEST)
    claimed: Kind = "index" if media_types.is_index(media_type) else "manifest"
    if claimed != kind:
        raise InvalidImageError(f"{what} says it is {media_type}, but has the form of {_A[kind]}", digest=digest)
    if expected is not None and kind != expected:
        raise InvalidImageError(f"{what} is {_A[kind]}, expected {_A[expected]}", digest=digest)
    return Document(kind=kind, raw=raw, media_type=media_type, digest=digest, members=members)


def _claims(
    members: dict[str, object], what: str, content_type: str | None, descriptor_media_type: str | None
) -> dict[str, str]:
    """Who says what, without those who say nothing."""
    claims = {
        "its mediaType field": text(members, "mediaType", what, default=""),
        "the Content-Type": media_types.bare(content_type),
        "its descriptor": media_types.bare(descriptor_media_type),
    }
    return {source: media_type for source, media_type in claims.items() if not media_types.is_generic(media_type)}


def _refuse_schema1(members: dict[str, object], claims: dict[str, str], digest: Digest) -> None:
    by_type = any(media_types.is_schema1(media_type) for media_type in claims.values())
    version = members.get("schemaVersion")
    if by_type or "fsLayers" in members or (version == 1 and version is not True):
        raise UnsupportedMediaTypeError(
            f"document {digest} is a docker image manifest of schema 1, which is not supported; "
            "push the image again with a current docker, or pull another tag",
            digest=digest,
            media_type=media_types.SCHEMA1[0],
        )


def _refuse_lookalikes(members: dict[str, object], what: str) -> None:
    # Go's encoding/json takes "Manifests" for "manifests", we don't: such a document would mean one thing to
    # containerd and another to us.
    for name in members:
        if _TELLING.get(name.lower(), name) != name:
            raise InvalidImageError(f"{what} is ambiguous: {shown(name)} stands for {_TELLING[name.lower()]}")
    version = integer(members, "schemaVersion", what, default=_SCHEMA_VERSION)
    if version != _SCHEMA_VERSION:
        raise InvalidImageError(f"{what}: schemaVersion must be {_SCHEMA_VERSION}, not {version}")


def _agreed(claims: dict[str, str], digest: Digest) -> str:
    for source, media_type in claims.items():
        if not (media_types.is_manifest(media_type) or media_types.is_index(media_type)):
            raise UnsupportedMediaTypeError(
                f"document {digest} is no image: {source} says {shown(media_type)}",
                digest=digest,
                media_type=media_type,
            )
    if len(set(claims.values())) > 1:
        said = ", ".join(f"{source} says {media_type}" for source, media_type in claims.items())
        raise InvalidImageError(f"document {digest} is ambiguous: {said}", digest=digest)
    return next(iter(claims.values()), "")


def _shape(members: dict[str, object], digest: Digest) -> Kind:
    manifest_like = [name for name in ("config", "layers") if name in members]
    if "manifests" in members:
        if manifest_like:
            raise InvalidImageError(
                f"document {digest} is ambiguous: manifests are an index's, {manifest_like[0]} a manifest's",
                digest=digest,
            )
        return "index"
    if not manifest_like:
        raise InvalidImageError(
            f"document {digest} is no manifest or index: it has neither layers nor manifests", digest=digest
        )
    return "manifest"
