"""Index: manifests by platform (image-spec image-index.md; docker manifest list)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imgpull.oci import document
from imgpull.oci.descriptor import Descriptor
from imgpull.oci.digest import Digest
from imgpull.oci.manifest import Manifest
from imgpull.oci.platform import Platform
from imgpull.oci.strict_json import FrozenMap, array, mapping_of_text, text

__all__ = ["Index", "parse_document"]


@dataclass(frozen=True, slots=True)
class Index:
    """A parsed index and the bytes it came as. Entries may be indexes themselves; whoever descends keeps count
    (``Limits.index_depth``, ``Limits.index_nodes``) and remembers the digests it has visited."""

    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest
    manifests: tuple[Descriptor, ...]
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
    ) -> Index:
        """Reads an index; arguments and errors as in :func:`imgpull.oci.document.read`."""
        return cls.from_document(
            document.read(raw, content_type, descriptor_media_type, algorithm=algorithm, expected="index")
        )

    @classmethod
    def from_document(cls, doc: document.Document) -> Index:
        """Reads the rest of a document known to be an index."""
        members, what = doc.members, doc.what
        entries = array(members, "manifests", what, default=[])
        subject = members.get("subject")
        return cls(
            raw=doc.raw,
            media_type=doc.media_type,
            digest=doc.digest,
            manifests=tuple(Descriptor.from_json(entry, f"{what}: manifests[{i}]") for i, entry in enumerate(entries)),
            annotations=mapping_of_text(members, "annotations", what),
            subject=None if subject is None else Descriptor.from_json(subject, f"{what}: subject"),
            artifact_type=text(members, "artifactType", what, default=""),
        )

    def select(self, platform: Platform) -> Descriptor:
        """The entry for ``platform``. Raises PlatformNotFoundError."""
        return platform.select(self.manifests)

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms its entries name, in order, each once."""
        return tuple(dict.fromkeys(entry.platform for entry in self.manifests if entry.platform is not None))


def parse_document(
    raw: bytes,
    content_type: str | None = None,
    descriptor_media_type: str | None = None,
    *,
    algorithm: str = "sha256",
) -> Manifest | Index:
    """Reads whichever of the two ``raw`` is; arguments and errors as in :func:`imgpull.oci.document.read`."""
    doc = document.read(raw, content_type, descriptor_media_type, algorithm=algorithm)
    return Index.from_document(doc) if doc.kind == "index" else Manifest.from_document(doc)
