"""Small real images: layers from dictionaries, compressed, with config, manifest and index. Same input, same bytes.

image = build([{"etc/os-release": "ID=fake\\n", "bin/": None, "bin/sh": Link("busybox")}, {"etc/.wh.os-release": ""}])
both = index({"linux/amd64": image, "linux/arm64": build([{"a": b"arm"}], platform="linux/arm64")})
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


@dataclass(frozen=True)
class Link:
    """A symbolic link, or a hard link to another name in the archive."""

    target: str
    hard: bool = False


@dataclass(frozen=True)
class Node:
    """An entry with metadata of its own."""

    content: bytes | str | Link | None = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 0
    xattrs: Mapping[str, str] = field(default_factory=dict)


Files = Mapping[str, bytes | str | Link | Node | tarfile.TarInfo | None]
"""Names to content. ``str`` and ``bytes``: a file; None: a directory; whiteouts are files by their usual names."""


@dataclass(frozen=True)
class Layer:
    """A layer's blob, and the tar inside it."""

    blob: bytes
    tar: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return sha256(self.blob)

    @property
    def diff_id(self) -> str:
        return sha256(self.tar)

    @property
    def descriptor(self) -> dict[str, Any]:
        return descriptor(self.media_type, self.blob)


@dataclass(frozen=True)
class Image:
    """A manifest with all that it names."""

    raw: bytes
    media_type: str
    config: bytes
    layers: tuple[Layer, ...]
    platform: str

    @property
    def digest(self) -> str:
        return sha256(self.raw)

    @property
    def config_digest(self) -> str:
        return sha256(self.config)

    @property
    def manifests(self) -> dict[str, tuple[str, bytes]]:
        """Digest to media type and bytes: what a registry answers under ``manifests/``."""
        return {self.digest: (self.media_type, self.raw)}

    @property
    def blobs(self) -> dict[str, bytes]:
        """Digest to bytes: what a registry answers under ``blobs/``."""
        return {self.config_digest: self.config, **{layer.digest: layer.blob for layer in self.layers}}

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(layer.diff_id for layer in self.layers)


@dataclass(frozen=True)
class Index:
    """An index with the images that it names."""

    raw: bytes
    media_type: str
    images: tuple[Image, ...]

    @property
    def digest(self) -> str:
        return sha256(self.raw)

    @property
    def manifests(self) -> dict[str, tuple[str, bytes]]:
        found = {self.digest: (self.media_type, self.raw)}
        for image in self.images:
            found.update(image.manifests)
        return found

    @property
    def blobs(self) -> dict[str, bytes]:
        return {digest: blob for image in self.images for digest, blob in image.blobs.items()}


def build(
    layers: Sequence[Files | Layer],
    *,
    compression: str = "gzip",
    platform: str = "linux/amd64",
    docker: bool = False,
    config: Mapping[str, Any] | None = None,
    **members: Any,
) -> Image:
    """An image of these layers. ``config`` goes under the config's ``config``; ``members`` into the manifest."""
    made = tuple(layer if isinstance(layer, Layer) else build_layer(layer, compression, docker) for layer in layers)
    system, architecture, *variant = platform.split("/")
    document = {
        "architecture": architecture,
        "os": system,
        **({"variant": variant[0]} if variant else {}),
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in made]},
        "history": [{"created_by": f"layer {number}"} for number, _ in enumerate(made)],
    }
    config_raw = encode(document)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, config_raw),
        "layers": [layer.descriptor for layer in made],
        **members,
    }
    return Image(encode(manifest), media_type, config_raw, made, platform)


def index(images: Mapping[str, Image], *, docker: bool = False, **members: Any) -> Index:
    """An index of these images, by platform (``linux/arm/v7``)."""
    entries = []
    for platform, image in images.items():
        system, architecture, *variant = platform.split("/")
        named = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        entries.append({**descriptor(image.media_type, image.raw), "platform": named})
    media_type = DOCKER_INDEX if docker else OCI_INDEX
    raw = encode({"schemaVersion": 2, "mediaType": media_type, "manifests": entries, **members})
    return Index(raw, media_type, tuple(images.values()))


def build_layer(files: Files, compression: str = "gzip", docker: bool = False) -> Layer:
    """A layer of these files; ``compression`` is ``gzip``, ``zstd`` or ``none``."""
    tar = build_tar(files)
    stem, separator = (DOCKER_LAYER, ".") if docker else (OCI_LAYER, "+")
    suffix = "" if compression == "none" else separator + compression
    return Layer(compress(tar, compression), tar, stem + suffix)


def build_tar(files: Files) -> bytes:
    """A tar archive of these files, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, value in files.items():
            info, content = _entry(name, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def compress(data: bytes, compression: str) -> bytes:
    """``data``, compressed without a time stamp."""
    if compression == "gzip":
        return gzip.compress(data, compresslevel=6, mtime=0)
    if compression == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415
        else:
            from backports import zstd  # noqa: PLC0415
        packed: bytes = zstd.compress(data)
        return packed
    if compression != "none":
        raise ValueError(f"no such compression: {compression}")
    return data


def random_bytes(size: int, seed: int = 0) -> bytes:
    """``size`` bytes that don't compress, always the same for a seed."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """A descriptor of ``data``, as JSON members."""
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def encode(document: Mapping[str, Any]) -> bytes:
    """``document`` as JSON, always with the same bytes."""
    return json.dumps(document, indent=2).encode()


def sha256(data: bytes) -> str:
    """The digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _entry(name: str, value: bytes | str | Link | Node | tarfile.TarInfo | None) -> tuple[tarfile.TarInfo, bytes]:
    if isinstance(value, tarfile.TarInfo):
        return value, b""
    directory = value is None or (isinstance(value, Node) and value.content is None)
    node = value if isinstance(value, Node) else Node(value, 0o755 if directory else 0o644)
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid, info.mtime = node.mode, node.uid, node.gid, node.mtime
    info.pax_headers = {f"SCHILY.xattr.{attribute}": text for attribute, text in node.xattrs.items()}
    content = node.content.encode() if isinstance(node.content, str) else node.content
    if isinstance(content, Link):
        info.type = tarfile.LNKTYPE if content.hard else tarfile.SYMTYPE
        info.linkname = content.target
        return info, b""
    if content is None:
        info.type = tarfile.DIRTYPE
        return info, b""
    info.size = len(content)
    return info, content
