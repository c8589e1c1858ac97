"""Writes one image as an OCI image layout, and reads back what the benchmarks want to know of one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.layers import BuiltLayer

__all__ = ["ImageFacts", "LayerFacts", "LayoutWriter", "build_layout", "described", "facts_of", "recipe_of"]

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_RECIPE = "org.imgpull.benchmarks.recipe"
_REF_NAME = "org.opencontainers.image.ref.name"
_CREATED = "2023-11-14T22:13:20Z"


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer's blob, as its manifest describes it."""

    digest: str
    media_type: str


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image costs to pull."""

    name: str
    config_digest: str
    layers: int
    size_bytes: int
    blob_sizes: Mapping[str, int]
    """Of config and layers, by digest."""
    chains: tuple[str, ...]
    """One name for each stack of layers from the bottom; the same in two images that begin alike."""
    layer_facts: tuple[LayerFacts, ...]
    """Lowest first."""


class LayoutWriter:
    """Builds a layout in ``directory``: blobs first, ``index.json`` last, so half a layout is never taken for one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)

    def blob(self, data: bytes) -> dict[str, Any]:
        """Stores ``data``; returns the digest and size fields of its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def finish(self, name: str, layers: Sequence[BuiltLayer], run: Mapping[str, Any], recipe: str) -> None:
        """Writes config, manifest and index. ``run``: the config's own ``config`` object; ``recipe``: kept for
        :func:`recipe_of`."""
        config = self.blob(_json(_config(layers, run)))
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, **config},
            "layers": [
                {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size_bytes} for layer in layers
            ],
        }
        descriptor = {"mediaType": _MANIFEST, **self.blob(_json(manifest)), "annotations": {_REF_NAME: name}}
        index = {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [descriptor],
            "annotations": {_RECIPE: recipe},
        }
        (self.directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
        partial = self.directory / "index.json.partial"
        partial.write_bytes(_json(index))
        os.replace(partial, self.directory / "index.json")


def build_layout(
    directory: Path,
    write: Callable[[LayoutWriter], Sequence[BuiltLayer]],
    reference: str,
    run: Mapping[str, Any],
    recipe: str,
) -> Sequence[BuiltLayer]:
    """Builds a layout beside ``directory`` and puts it there whole; ``write`` writes its layers."""
    partial = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        layout = LayoutWriter(partial)
        layers = write(layout)
        layout.finish(reference, layers, run, recipe)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return layers


def described(layers: Sequence[BuiltLayer]) -> str:
    """Sizes in one line, MB being 10**6 bytes."""
    size = sum(layer.size_bytes for layer in layers) / 1e6
    tar = sum(layer.tar_bytes for layer in layers) / 1e6
    entries = sum(layer.entries for layer in layers)
    return f"{len(layers)} layers, {size:.1f} MB ({tar:.0f} MB of tar), {entries} entries"


def recipe_of(directory: Path) -> str | None:
    """The recipe the layout in ``directory`` was built from; None when there is no finished layout."""
    try:
        index = json.loads((directory / "index.json").read_bytes())
    except (OSError, ValueError):
        return None
    recipe = index.get("annotations", {}).get(_RECIPE)
    return recipe if isinstance(recipe, str) else None


def facts_of(directory: Path) -> ImageFacts:
    """Name, layers and size of the (first) image in a layout."""
    index = json.loads((directory / "index.json").read_bytes())
    descriptor = index["manifests"][0]
    blobs = directory / "blobs" / "sha256"
    manifest = json.loads((blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes())
    sizes = {part["digest"]: part["size"] for part in (manifest["config"], *manifest["layers"])}
    digests = [layer["digest"] for layer in manifest["layers"]]
    return ImageFacts(
        name=descriptor["annotations"][_REF_NAME],
        config_digest=manifest["config"]["digest"],
        layers=len(manifest["layers"]),
        size_bytes=sum(sizes.values()),
        blob_sizes=sizes,
        chains=tuple("+".join(digests[: height + 1]) for height in range(len(digests))),
        layer_facts=tuple(LayerFacts(layer["digest"], layer["mediaType"]) for layer in manifest["layers"]),
    )


def _config(layers: Sequence[BuiltLayer], run: Mapping[str, Any]) -> dict[str, Any]:
    machine = platform.machine().lower()
    return {
        "created": _CREATED,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        "os": "linux",
        "config": dict(run),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": _CREATED, "created_by": layer.comment} for layer in layers],
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
