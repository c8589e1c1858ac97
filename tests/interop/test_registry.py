"""What skopeo pushed to docker-registry is what imgpull pulls: by tag, by digest, in both families of media types."""

from __future__ import annotations

from pathlib import Path

import pytest

import imgpull
from benchmarks.origin import Origin
from fakes.images import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Files, Image, build, index
from fakes.layouts import write_layout
from fakes.skopeo import push

pytestmark = pytest.mark.realpeer("docker-registry", "skopeo")

PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7")


def image_for(platform: str) -> Image:
    layers: list[Files] = [{"etc/": None, "etc/platform": platform}, {"etc/more": b"x" * 2000}]
    return build(layers, platform=platform, config={"Env": [f"PLATFORM={platform}"]})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A layout with one image, ``one``, and three under an index, ``many``."""
    made = {platform: image_for(platform) for platform in PLATFORMS}
    return write_layout(tmp_path / "layout", {"one": made["linux/amd64"], "many": index(made)})


def told(store: imgpull.Store, image: imgpull.Image) -> str:
    with store.snapshots.view(image.chain_id) as rootfs:
        return rootfs.read_text("etc/platform")


FORMATS = {"oci": (OCI_MANIFEST, OCI_INDEX), "v2s2": (DOCKER_MANIFEST, DOCKER_INDEX)}


@pytest.mark.parametrize("form", FORMATS)
def test_a_manifest(registry: Origin, images: Path, tmp_path: Path, form: str) -> None:
    name = f"{registry.address}/one/{form}"
    digest = push(images, "one", f"{name}:tag", "--format", form)
    with imgpull.Store(tmp_path / "store", durability="none") as store, imgpull.Puller(store) as puller:
        by_tag = puller.pull(f"{name}:tag", platform="linux/amd64")
        by_digest = puller.pull(f"{name}@{digest}", platform="linux/amd64")
        assert by_tag.digest == by_tag.manifest_digest == by_digest.digest == digest
        assert told(store, by_tag) == "linux/amd64"
        assert store.content.info(digest).size_bytes > 0
        with store.content.open(digest) as blob:
            assert FORMATS[form][0].encode() in blob.read()


@pytest.mark.parametrize("form", FORMATS)
def test_a_list_of_manifests(registry: Origin, images: Path, tmp_path: Path, form: str) -> None:
    name = f"{registry.address}/many/{form}"
    digest = push(images, "many", f"{name}:tag", "--all", "--format", form)
    with imgpull.Store(tmp_path / "store", durability="none") as store, imgpull.Puller(store) as puller:
        for platform in PLATFORMS:
            by_tag = puller.pull(f"{name}:tag", platform=platform)
            by_digest = puller.pull(f"{name}@{digest}", platform=platform)
            assert by_tag.digest == by_digest.digest == digest
            assert by_tag.manifest_digest == by_digest.manifest_digest != digest
            assert told(store, by_tag) == platform
            assert by_tag.config.env == (f"PLATFORM={platform}",)
            child = puller.pull(f"{name}@{by_tag.manifest_digest}", platform=platform)
            assert child.chain_id == by_tag.chain_id
        with store.content.open(digest) as blob:
            assert FORMATS[form][1].encode() in blob.read()
        with pytest.raises(imgpull.PlatformNotFoundError):
            puller.pull(f"{name}:tag", platform="linux/s390x")
        with pytest.raises(imgpull.NotFoundError):
            puller.pull(f"{name}:gone")
