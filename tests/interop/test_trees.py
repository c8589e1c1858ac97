"""imgpull's tree of an image is umoci's, entry by entry: names, types, modes, owners, times, hard links, attributes and
bytes. skopeo pushes the image to docker-registry; imgpull pulls it from there, umoci unpacks it from its layout."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import pytest

import imgpull
from benchmarks.layout import facts_of
from benchmarks.origin import Origin
from fakes.everything import everything
from fakes.filesystems import mounted
from fakes.images import build
from fakes.layouts import write_layout
from fakes.skopeo import push, umoci_tree
from fakes.trees import read_tree, read_view

pytestmark = [
    pytest.mark.realpeer("docker-registry", "skopeo", "umoci"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gets owners, devices and capabilities"),
]

Tree = Mapping[str, tuple[object, ...]]

IMAGES_DIR = os.environ.get("IMGPULL_IMAGES_DIR", "")
BIG = {"redis": "redis", "golang": "golang", "manylayers": "manylayers", "golang-zstd": "golang"}
"""Images of ``python -m benchmarks images``, and the one umoci unpacks for it: it does not know zstd."""


def implied(layers: Iterable[bytes]) -> set[str]:
    """Directories that no layer has an entry for, and those that one of them was made in. umoci gives all of them
    the time of day; imgpull 1970 to the first (policy P13), and leaves the others the time of their own entry."""
    links: dict[str, str] = {}
    known, found = {""}, set()
    for layer in layers:
        with tarfile.open(fileobj=BytesIO(layer)) as archive:
            for member in archive:
                top, slash, rest = member.name.partition("/")
                path = f"{links.get(top, top)}{slash}{rest}".removeprefix(".")
                if member.issym():
                    links[path] = member.linkname
                while path not in known:
                    known.add(path)
                    path = os.path.dirname(path)
                    if path not in known:
                        found |= {path, os.path.dirname(path)}
    return found


def timeless(tree: Tree, names: set[str]) -> Tree:
    """The tree without the modification times of ``names``, the sixth field of an entry."""
    return {name: (*entry[:5], None, *entry[6:]) if name in names else entry for name, entry in tree.items()}


def differences(ours: Tree, theirs: Tree) -> dict[str, tuple[object, object]]:
    names = sorted(ours.keys() | theirs.keys())
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def trees_of(place: Path, reference: str) -> Iterator[tuple[str, Tree]]:
    """The three forms in which a tree leaves the store."""
    with imgpull.Store(place / "store", durability="none") as store, imgpull.Puller(store) as puller:
        image = puller.pull(reference)
        store.unpack(image, place / "unpacked")
        yield "store.unpack", read_tree(place / "unpacked", digested=True)
        with store.snapshots.view(image.chain_id) as rootfs:
            yield "the view's walk", read_view(rootfs)
            yield "the view's path", read_tree(rootfs.path, digested=True)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    place = tmp_path_factory.mktemp("umoci")
    layout = write_layout(place / "layout", {"everything": build(everything())})
    return read_tree(umoci_tree(layout, "everything", place / "bundle"), digested=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "overlayfs"])
def test_everything_an_image_can_have(
    theirs: Tree, registry: Origin, tmp_path: Path, kind: str, compression: str
) -> None:
    image = build(everything(), compression=compression)
    reference = f"{registry.address}/everything:{compression}"
    assert push(write_layout(tmp_path / "layout", {"it": image}), "it", reference) == image.digest
    only_time = implied(layer.tar for layer in image.layers)
    with mounted(kind, tmp_path / kind) as place:
        probe_attributes(place)
        for form, ours in trees_of(place, reference):
            assert differences(timeless(ours, only_time), timeless(theirs, only_time)) == {}, form


def probe_attributes(place: Path) -> None:
    try:
        os.setxattr(place, "user.probe", b"")
        os.removexattr(place, "user.probe")
    except OSError as error:
        pytest.skip(f"no user attributes on this file system: {error.strerror}")


def test_a_difference_would_be_seen(theirs: Tree) -> None:
    """Each of the seven fields is compared; and what is forgiven is a time, and only of directories."""
    name = "usr/bin/ping"
    for field in range(7):
        changed = (*theirs[name][:field], "other", *theirs[name][field + 1 :])
        assert list(differences({**theirs, name: changed}, theirs)) == [name]
    only_time = implied(layer.tar for layer in build(everything()).layers)
    assert all(str(theirs[name][0]).startswith("d") for name in only_time)
    assert {"", "home", "implied", "implied/by"} < only_time
    assert len(only_time) == 9


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not IMAGES_DIR, reason="IMGPULL_IMAGES_DIR is not set: see python -m benchmarks images")
@pytest.mark.parametrize("name", BIG)
def test_images_of_real_packages(registry: Origin, tmp_path: Path, name: str) -> None:
    layout, twin = Path(IMAGES_DIR) / name, Path(IMAGES_DIR) / BIG[name]
    if not layout.is_dir() or not twin.is_dir():
        pytest.skip(f"{name} is not in {IMAGES_DIR}")
    reference = f"{registry.address}/{facts_of(layout).name}"
    push(layout, facts_of(layout).name, reference)
    theirs = read_tree(umoci_tree(twin, facts_of(twin).name, tmp_path / "bundle"), digested=True)
    for form, ours in trees_of(tmp_path, reference):
        assert differences(ours, theirs) == {}, form
