"""Made images as OCI image layouts, which skopeo and umoci read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fakes.images import OCI_INDEX, Image, Index, descriptor, encode

REF_NAME = "org.opencontainers.image.ref.name"


def write_layout(root: Path, images: Mapping[str, Image | Index]) -> Path:
    """``root`` as a layout that knows these images by these names."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    entries = []
    for name, image in images.items():
        found = {**{digest: raw for digest, (_, raw) in image.manifests.items()}, **image.blobs}
        for digest, data in found.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        entries.append({**descriptor(image.media_type, image.raw), "annotations": {REF_NAME: name}})
    (root / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    (root / "index.json").write_bytes(encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
    return root
