"""Descriptor: what a blob is, its digest and its size (image-spec descriptor.md)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from imgpull.errors import InvalidImageError
from imgpull.oci.digest import Digest
from imgpull.oci.platform import Platform
from imgpull.oci.strict_json import FrozenMap, integer, mapping, mapping_of_text, shown, text, texts

__all__ = ["Descriptor"]

_MEDIA_TYPE = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content. ``size_bytes`` is checked before the digest, and bounds what is read."""

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=FrozenMap)
    urls: tuple[str, ...] = ()
    """Where else the content may be had. Deprecated; whoever follows one sends no credentials."""
    platform: Platform | None = None
    data: bytes | None = field(default=None, repr=False)
    """The content itself, embedded and already verified; None where it has to be fetched."""
    artifact_type: str = ""

    @classmethod
    def from_json(cls, obj: object, what: str) -> Descriptor:
        """The descriptor in ``obj``; ``what`` says in a message where it stands.

        Raises InvalidImageError for a field of the wrong form, UnsupportedMediaTypeError for an unknown digest
        algorithm. ``data`` that is not what digest and size promise is dropped: the content is fetched then.
        """
        if not isinstance(obj, dict):
            raise InvalidImageError(f"{what} must be an object, not {shown(obj)}")
        digest = Digest(text(obj, "digest", what))
        size_bytes = integer(obj, "size", what)
        return cls(
            media_type=_media_type(obj, what),
            digest=digest,
            size_bytes=size_bytes,
            annotations=mapping_of_text(obj, "annotations", what),
            urls=texts(obj, "urls", what),
            platform=_platform(obj, what),
            data=_verified(text(obj, "data", what, default=""), digest, size_bytes),
            artifact_type=text(obj, "artifactType", what, default=""),
        )

    def to_json(self) -> dict[str, object]:
        """The fields that identify content, for ``index.json``; platform and data are left to the caller."""
        members: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size_bytes}
        if self.annotations:
            members["annotations"] = dict(self.annotations)
        return members


def _media_type(obj: dict[str, object], what: str) -> str:
    media_type = text(obj, "mediaType", what)
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        raise InvalidImageError(f"{what}: mediaType {shown(media_type)} is no media type")
    return media_type


def _platform(obj: dict[str, object], what: str) -> Platform | None:
    members = mapping(obj, "platform", what, default={})
    return Platform.from_json(members, f"{what}.platform") if members else None


def _verified(encoded: str, digest: Digest, size_bytes: int) -> bytes | None:
    # The length is compared first: base64 of n bytes has 4⌈n/3⌉ characters, so nothing is decoded in vain.
    if len(encoded) != 4 * ((size_bytes + 2) // 3):
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == size_bytes and digest.matches(data) else None
