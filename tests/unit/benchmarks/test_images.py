"""Layers and layouts as they are written: read back with the standard library, not with what they test."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest

from benchmarks.demo_image import libraries_named
from benchmarks.images import ImageBuildError, build, merged_name
from benchmarks.layers import BuiltLayer, LayerWriter, parents_of
from benchmarks.layout import LayoutWriter, build_layout, facts_of, recipe_of
from benchmarks.recipes import RECIPES, recipe_called


def write(layout: LayoutWriter) -> Sequence[BuiltLayer]:
    with LayerWriter(layout.blobs, "gzip", "one") as writer:
        writer.file("a/b/grüße", b"hello")
        writer.whiteout("a/gone")
        writer.opaque("a/c")
        writer.hard_link("a/link", "a/b/grüße")
        return [writer.finish()]


def test_a_layer_has_the_digests_it_claims_and_each_directory_once(tmp_path: Path) -> None:
    (layer,) = build_layout(tmp_path / "image", write, "image:latest", {}, "recipe 1")
    blob = (tmp_path / "image/blobs/sha256" / layer.digest.removeprefix("sha256:")).read_bytes()
    tar = gzip.decompress(blob)
    assert layer.digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    assert layer.diff_id == f"sha256:{hashlib.sha256(tar).hexdigest()}"
    assert (layer.size_bytes, layer.tar_bytes) == (len(blob), len(tar))
    with tarfile.open(fileobj=BytesIO(tar)) as archive:
        names = archive.getnames()
    assert names == ["a", "a/b", "a/b/grüße", "a/.wh.gone", "a/c", "a/c/.wh..wh..opq", "a/link"]
    assert layer.entries == len(names)


def test_an_image_built_twice_is_the_same_image(tmp_path: Path) -> None:
    for name in ("first", "second"):
        build_layout(tmp_path / name, write, "image:latest", {}, "recipe 1")
    first, second = ((tmp_path / name / "index.json").read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_layout_tells_its_facts_and_its_recipe(tmp_path: Path) -> None:
    (layer,) = build_layout(tmp_path / "image", write, "image:latest", {}, "recipe 1")
    facts = facts_of(tmp_path / "image")
    assert (facts.name, facts.layers, facts.chains) == ("image:latest", 1, (layer.digest,))
    assert facts.size_bytes == sum(facts.blob_sizes.values()) > layer.size_bytes
    assert recipe_of(tmp_path / "image") == "recipe 1"
    assert recipe_of(tmp_path / "nothing") is None


def test_a_build_that_fails_leaves_neither_layout_nor_rest(tmp_path: Path) -> None:
    def fail(layout: LayoutWriter) -> Sequence[BuiltLayer]:
        with LayerWriter(layout.blobs, "gzip", "one") as writer:
            writer.file("a", b"x")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        build_layout(tmp_path / "image", fail, "image:latest", {}, "recipe 1")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_image_is_refused_with_the_choice(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildError, match="golang"):
        build(["postgres"], tmp_path, lambda _: None)
    assert recipe_called("zstd") is RECIPES["golang-zstd"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bin/ls", "usr/bin/ls"), ("lib64/ld.so", "usr/lib64/ld.so"), ("bin", "bin"), ("etc/bin/x", "etc/bin/x")],
)
def test_merged_names(name: str, expected: str) -> None:
    assert merged_name(name) == expected


def test_parents_are_topmost_first() -> None:
    assert parents_of("a/b/c") == ["a", "a/b"]
    assert parents_of("a") == []


def test_libraries_in_the_output_of_ldd() -> None:
    output = (
        "\tlinux-vdso.so.1 (0x00007f13f7da8000)\n"
        "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f13f741e000)\n"
        "\tlibgone.so => not found\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f13f7daa000)\n"
    )
    assert libraries_named(output) == ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]


def test_the_index_is_json_of_the_specification(tmp_path: Path) -> None:
    build_layout(tmp_path / "image", write, "image:latest", {}, "recipe 1")
    index = json.loads((tmp_path / "image/index.json").read_bytes())
    (descriptor,) = index["manifests"]
    assert index["schemaVersion"] == 2
    assert descriptor["annotations"]["org.opencontainers.image.ref.name"] == "image:latest"
