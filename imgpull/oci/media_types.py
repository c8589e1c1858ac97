"""Media types: what a blob is, by name (image-spec media-types.md; docker's image manifest v2 schema 2)."""

from __future__ import annotations

from typing import Literal

from imgpull.errors import UnsupportedMediaTypeError
from imgpull.oci.strict_json import shown

__all__ = [
    "ACCEPT",
    "DOCKER_CONFIG",
    "DOCKER_INDEX",
    "DOCKER_LAYER",
    "DOCKER_LAYER_GZIP",
    "DOCKER_LAYER_ZSTD",
    "DOCKER_MANIFEST",
    "EMPTY",
    "LayerCompression",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "SCHEMA1",
    "bare",
    "is_config",
    "is_foreign",
    "is_generic",
    "is_index",
    "is_layer",
    "is_manifest",
    "is_schema1",
    "layer_compression",
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
EMPTY = "application/vnd.oci.empty.v1+json"
"""The config of an artifact that has none (image-spec manifest.md, "Guidance for an Empty Descriptor")."""

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
"""What a manifest request accepts. No ``*/*``: a registry that only has schema 1 should say so with a 404 rather
than convert (containerd sends ``*/*`` and then refuses what comes)."""

LayerCompression = Literal["none", "gzip", "zstd"]

_INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
# application/octet-stream: some docker clients pushed configs so (distribution issue 1622), containerd reads them.
_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream"})
_GENERIC = frozenset({"", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain"})
_COMPRESSIONS: dict[str, LayerCompression] = {"": "none", "+gzip": "gzip", "+zstd": "zstd"}
# Stem, and the character that parts it from the compression's name: "+" in the OCI's types, "." in docker's.
# The non-distributable stems are deprecated.
_LAYER_STEMS = (
    (OCI_LAYER, "+"),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar", "+"),
    (DOCKER_LAYER, "."),
    ("application/vnd.docker.image.rootfs.foreign.diff.tar", "."),
)


def bare(content_type: str | None) -> str:
    """A Content-Type header without its parameters, in lower case; empty for none."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_index(media_type: str) -> bool:
    """Whether it names an OCI index or a docker manifest list."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether it names an image manifest, OCI or docker schema 2."""
    return media_type in _MANIFESTS


def is_schema1(media_type: str) -> bool:
    """Whether it names docker's schema 1, which is refused everywhere."""
    return media_type in SCHEMA1


def is_config(media_type: str) -> bool:
    """Whether it can be an image's config."""
    return media_type in _CONFIGS


def is_generic(media_type: str) -> bool:
    """Whether it says nothing about a document (servers send these for any file)."""
    return media_type in _GENERIC


def is_layer(media_type: str) -> bool:
    """Whether it names a layer, whatever its compression."""
    return _layer_suffix(media_type) is not None


def is_foreign(media_type: str) -> bool:
    """Whether it names a layer that registries may not have (``urls``; deprecated in image-spec 1.1)."""
    return is_layer(media_type) and (".nondistributable." in media_type or ".foreign." in media_type)


def layer_compression(media_type: str) -> LayerCompression:
    """The compression a layer's media type declares. The bytes decide what is done; this is what was promised.

    Raises UnsupportedMediaTypeError for what is no layer, or is compressed or encrypted in a way we do not read.
    """
    suffix = _layer_suffix(media_type)
    if suffix is None:
        raise UnsupportedMediaTypeError(
            f"{shown(media_type)} is no image layer; this may be an artifact, not an image", media_type=media_type
        )
    if suffix not in _COMPRESSIONS:
        raise UnsupportedMediaTypeError(
            f"layer compression {shown(suffix[1:])} of {shown(media_type)} is not supported; gzip, zstd and none are",
            media_type=media_type,
        )
    return _COMPRESSIONS[suffix]


def _layer_suffix(media_type: str) -> str | None:
    for stem, separator in _LAYER_STEMS:
        if media_type == stem:
            return ""
        if media_type.startswith(stem + separator):
            return "+" + media_type[len(stem) + 1 :]
    return None
