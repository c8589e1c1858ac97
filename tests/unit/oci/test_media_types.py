from __future__ import annotations

import pytest

from imgpull.errors import UnsupportedMediaTypeError
from imgpull.oci import ACCEPT, is_config, is_foreign, is_index, is_layer, is_manifest, is_schema1, layer_compression
from imgpull.oci import media_types as names

OCI = "application/vnd.oci.image.layer.v1.tar"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"


@pytest.mark.parametrize("stem", [OCI, OCI_FOREIGN, DOCKER, DOCKER_FOREIGN])
def test_layers_and_their_compression(stem: str) -> None:
    separator = "." if "docker" in stem else "+"
    assert layer_compression(stem) == "none"
    for compression in ("gzip", "zstd"):
        assert layer_compression(f"{stem}{separator}{compression}") == compression
        assert is_layer(f"{stem}{separator}{compression}")
    assert is_foreign(stem) == (stem in (OCI_FOREIGN, DOCKER_FOREIGN))


@pytest.mark.parametrize(
    "media_type", [f"{OCI}+xz", f"{OCI}+", f"{OCI}+gzip+encrypted", f"{OCI}+GZIP", f"{DOCKER}.bz2", f"{OCI}+zstd "]
)
def test_an_unknown_compression_is_refused_by_name(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="layer compression") as caught:
        layer_compression(media_type)
    assert caught.value.media_type == media_type


@pytest.mark.parametrize("media_type", ["", "application/json", f"x{OCI}", f"{OCI}x", f"{OCI}.gzip", f"{DOCKER}+gzip"])
def test_what_is_no_layer_has_no_compression(media_type: str) -> None:
    assert not is_layer(media_type)
    with pytest.raises(UnsupportedMediaTypeError, match="no image layer"):
        layer_compression(media_type)


def test_kinds_exclude_each_other() -> None:
    for media_type in (*ACCEPT, *names.SCHEMA1, names.OCI_CONFIG, names.DOCKER_CONFIG, OCI, DOCKER):
        kinds = [is_index, is_manifest, is_schema1, is_config, is_layer]
        assert sum(kind(media_type) for kind in kinds) == 1, media_type
    assert all(is_index(media_type) or is_manifest(media_type) for media_type in ACCEPT)
