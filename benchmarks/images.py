"""Builds the test images as OCI layouts from Debian packages; ``python -m benchmarks images NAME… --out DIR``.

Needs Debian 12's ``apt-get`` and ``dpkg-deb``. An image that is there and was built by the same recipe is kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.demo_image import DEMO, build_demo
from benchmarks.layers import BuiltLayer, LayerWriter, parents_of
from benchmarks.layout import LayoutWriter, build_layout, described, recipe_of
from benchmarks.recipes import ImageRecipe, LayerRecipe, recipe_called

__all__ = ["ImageBuildError", "build", "ensure", "merged_name"]

_FORMAT = "1"
"""Raise it when the way layers are written changes: kept images are then built again."""
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# cap_net_raw=ep, version 2: little-endian words magic|effective, permitted, inheritable, and the upper halves.
_CAP_NET_RAW = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


class ImageBuildError(Exception):
    """An image can't be built here; the message says what is missing."""


def build(names: Sequence[str], out: Path, say: Callable[[str], None]) -> list[Path]:
    """Builds the named images below ``out``, one layout each; returns their directories."""
    try:
        recipes = [recipe_called(name) for name in names if name != DEMO]
    except KeyError as error:
        raise ImageBuildError(str(error.args[0])) from None
    out.mkdir(parents=True, exist_ok=True)
    built = [build_demo(out, say)] if DEMO in names else []
    with tempfile.TemporaryDirectory(prefix="imgpull-packages-", ignore_cleanup_errors=True) as packages:
        for recipe in recipes:
            directory = out / recipe.name
            built.append(directory)
            if recipe_of(directory) == _identity(recipe):
                say(f"{recipe.name}: kept, {directory}")
                continue
            _fetch(recipe, Path(packages), say)
            say(f"{recipe.name}: writing {len(recipe.layers)} layers")
            layers = _build(recipe, directory, Path(packages))
            say(f"{recipe.name}: {described(layers)}, {directory}")
    return built


def ensure(name: str, images: Path, say: Callable[[str], None]) -> Path:
    """The layout of the image called ``name`` below ``images``, built first when it is missing or outdated."""
    return build([name], images, say)[-1]


def merged_name(name: str) -> str:
    """``bin/ls`` as a merged-/usr system has it: ``usr/bin/ls``."""
    top, slash, _ = name.partition("/")
    return f"usr/{name}" if slash and top in _MERGED else name


def _identity(recipe: ImageRecipe) -> str:
    text = json.dumps([_FORMAT, dataclasses.asdict(recipe)], sort_keys=True)
    return f"{recipe.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _fetch(recipe: ImageRecipe, packages: Path, say: Callable[[str], None]) -> None:
    """Gets the ``.deb`` files that are not in ``packages`` yet, with the system's own apt."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ImageBuildError(f"{tool} is not here: these images are built from Debian 12's packages, on Debian")
    wanted = [package for layer in recipe.layers for package in layer.packages]
    missing = sorted({package for package in wanted if not _debs(packages, package)})
    if not missing:
        return
    say(f"{recipe.name}: fetching {len(missing)} packages")
    # apt drops to the user _apt for the transfer; the directory is root's own, so it must not.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *missing]
    done = subprocess.run(command, cwd=packages, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ImageBuildError(f"apt-get could not fetch packages of {recipe.name}: {reason} (apt-get update first?)")


def _debs(packages: Path, package: str) -> list[Path]:
    return sorted(packages.glob(f"{package}_*.deb"))


def _build(recipe: ImageRecipe, directory: Path, packages: Path) -> Sequence[BuiltLayer]:
    def write(layout: LayoutWriter) -> list[BuiltLayer]:
        def one(layer: LayerRecipe) -> BuiltLayer:
            with LayerWriter(layout.blobs, recipe.compression, layer.comment) as writer:
                _write_layer(writer, layer, packages)
                return writer.finish()

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(one, recipe.layers))

    return build_layout(directory, write, recipe.reference, dict(recipe.run), _identity(recipe))


def _write_layer(writer: LayerWriter, layer: LayerRecipe, packages: Path) -> None:
    if layer.root:
        for name in _MERGED:
            writer.directory("usr")
            writer.directory(f"usr/{name}")
            writer.symlink(name, f"usr/{name}")
    for name in layer.whiteouts:
        writer.whiteout(name)
    for name in layer.opaques:
        writer.opaque(name)
    for package in layer.packages:
        for deb in _debs(packages, package):
            _add_package(writer, layer, deb)
    for name, mode, uid in layer.directories:
        writer.directory(name, mode, uid)
    for name, text, mode in layer.files:
        writer.file(name, text.encode(), mode)
    for name, target in layer.symlinks:
        writer.symlink(name, target)


def _add_package(writer: LayerWriter, layer: LayerRecipe, deb: Path) -> None:
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            if name in (".", "", *_MERGED) or merged_name(name).startswith(layer.without):
                continue  # a directory entry "bin" would replace the root layer's symlink
            member.name = name if layer.unmerged else merged_name(name)
            if member.islnk():
                link = member.linkname.removeprefix("./")
                member.linkname = link if layer.unmerged else merged_name(link)
            if name in layer.capabilities:
                member.pax_headers = {"SCHILY.xattr.security.capability": _CAP_NET_RAW.decode("ascii")}
            for parent in parents_of(member.name):
                if not (layer.unmerged and parent in _MERGED):
                    writer.directory(parent)
            writer.add(member, archive.extractfile(member) if member.isreg() else None)
    if process.wait() != 0:
        raise ImageBuildError(f"dpkg-deb could not read {deb.name}")
