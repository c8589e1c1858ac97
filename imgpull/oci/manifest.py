"""Manifest: one image's config and layers (image-spec manifest.md; docker image manifest v2 schema 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imgpull.errors import UnsupportedMediaTypeError
from imgpull.oci import document, media_types
from imgpull.oci.descriptor import Descriptor
from imgpull.oci.digest import Digest
from imgpull.oci.strict_json import FrozenMap, array, mapping_of_text, shown, text

__all__ = ["Manifest"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest and the bytes it came as, which are what its digest names.

    ``layers`` (bottom first) are this manifest's own. Two manifests may share one config and differ in their layers
    (gzip and zstd of the same tars), so layers are never looked up by config digest (containerd issue 13966).
    """

    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=FrozenMap)
    subject: Descriptor | None = None
    artifact_type: str = ""

    @classmethod
    def parse(
        cls,
        raw: bytes,
        content_type: str | None = None,
        descriptor_media_type: str | None = None,
        *,
        algorithm: str = "sha256",
    ) -> Manifest:
        """Reads a manifest; arguments and errors as in :func:`imgpull.oci.document.read`."""
        return cls.from_document(
            document.read(raw, content_type, descriptor_media_type, algorithm=algorithm, expected="manifest")
        )

    @classmethod
    def from_document(cls, doc: document.Document) -> Manifest:
        """Reads the rest of a document known to be a manifest."""
        members, what = doc.members, doc.what
        layers = array(members, "layers", what, default=[] if "layers" in members else None)
        subject = members.get("subject")
        return cls(
            raw=doc.raw,
            media_type=doc.media_type,
            digest=doc.digest,
            config=Descriptor.from_json(members.get("config"), f"{what}: config"),
            layers=tuple(Descriptor.from_json(layer, f"{what}: layers[{i}]") for i, layer in enumerate(layers)),
            annotations=mapping_of_text(members, "annotations", what),
            subject=None if subject is None else Descriptor.from_json(subject, f"{what}: subject"),
            artifact_type=text(members, "artifactType", what, default=""),
        )

    @property
    def size_bytes(self) -> int:
        """Bytes to fetch at most: manifest, config and layers, a layer that appears twice counted once."""
        blobs = {layer.digest: layer.size_bytes for layer in (self.config, *self.layers)}
        return len(self.raw) + sum(blobs.values())

    def require_image(self) -> None:
        """Raises UnsupportedMediaTypeError unless this is a container image whose layers we can read."""
        if not media_types.is_config(self.config.media_type):
            kind = self.artifact_type or self.config.media_type
            raise UnsupportedMediaTypeError(
                f"manifest {self.digest} is no container image but an artifact of type {shown(kind)}",
                digest=self.digest,
                media_type=self.config.media_type,
            )
        for layer in self.layers:
            media_types.layer_compression(layer.media_type)
