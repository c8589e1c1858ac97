"""Images made of other images, for the axes of ``scale``: fewer layers of one, or several upon the same one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.layers import BuiltLayer, LayerWriter
from benchmarks.layout import LayoutWriter, facts_of

__all__ = ["lowest_layers", "siblings"]


def lowest_layers(layout: Path, count: int, out: Path) -> Path:
    """An image of the lowest ``count`` layers of the one in ``layout``. Raises ValueError when it has fewer."""
    layers = _layers_of(layout)
    if count > len(layers):
        raise ValueError(f"{facts_of(layout).name} has {len(layers)} layers, not {count}")
    return _written(layout, layers[:count], out / f"layers-{count}", f"{count}-layers")


def siblings(layout: Path, count: int, out: Path) -> list[Path]:
    """``count`` images, as so many services built upon one base: the one in ``layout`` and a layer of its own each."""
    return [_sibling(layout, number, out / f"sibling-{number}") for number in range(count)]


def _sibling(layout: Path, number: int, directory: Path) -> Path:
    layers = _layers_of(layout)
    blobs = LayoutWriter(directory).blobs
    with LayerWriter(blobs, "gzip", f"COPY service-{number}") as writer:
        writer.file(f"srv/service-{number}", f"service {number}\n".encode() * 1000)
        own = writer.finish()
    return _written(layout, [*layers, own], directory, f"sibling-{number}")


def _written(source: Path, layers: Sequence[BuiltLayer], directory: Path, tag: str) -> Path:
    target = LayoutWriter(directory)
    for layer in layers:
        name = layer.digest.removeprefix("sha256:")
        if not (target.blobs / name).exists():
            _same_file(source / "blobs" / "sha256" / name, target.blobs / name)
    repository = facts_of(source).name.rpartition(":")[0]
    target.finish(f"{repository}:{tag}", layers, {}, f"derived from {source.name}")
    return directory


def _same_file(source: Path, target: Path) -> None:
    """By hard link where that is possible; never by symbolic link, which a server of layouts does not follow."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _layers_of(layout: Path) -> list[BuiltLayer]:
    facts = facts_of(layout)
    config = _blob(layout, facts.config_digest)
    return [
        BuiltLayer(layer.digest, diff_id, layer.media_type, facts.blob_sizes[layer.digest], 0, 0, step["created_by"])
        for layer, diff_id, step in zip(facts.layer_facts, config["rootfs"]["diff_ids"], config["history"], strict=True)
    ]


def _blob(layout: Path, digest: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())
    return document
