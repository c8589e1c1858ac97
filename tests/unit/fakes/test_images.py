"""Built images are what they claim, and always the same."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from fakes import images
from fakes.images import Link, Node


def files() -> images.Files:
    return {
        "d/": None,
        "d/f": "text",
        "d/link": Link("f"),
        "d/hard": Link("d/f", hard=True),
        "d/.wh.gone": b"",
        "own": Node(b"x", mode=0o4755, uid=5, gid=6, mtime=1.5, xattrs={"user.a": "b"}),
    }


def test_the_same_input_gives_the_same_bytes() -> None:
    for compression in ("gzip", "zstd", "none"):
        first, second = (images.build([files()], compression=compression) for _ in range(2))
        assert first == second
        assert first.layers[0].media_type.endswith({"none": ".tar"}.get(compression, f"+{compression}"))
        assert first.layers[0].diff_id == images.sha256(images.build_tar(files()))


def test_a_layer_is_a_real_archive() -> None:
    layer = images.build_layer(files())
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer.blob))) as archive:
        members = {member.name: member for member in archive}
    assert list(members) == ["d", "d/f", "d/link", "d/hard", "d/.wh.gone", "own"]
    own = members["own"]
    assert (own.mode, own.uid, own.gid, own.mtime) == (0o4755, 5, 6, 1.5)
    assert own.pax_headers["SCHILY.xattr.user.a"] == "b"
    assert members["d/link"].issym()
    assert members["d/hard"].islnk()


@pytest.mark.parametrize("docker", [False, True])
def test_documents_name_each_other(docker: bool) -> None:
    image = images.build([{"a": b"1"}, {"b": b"2"}], docker=docker, platform="linux/arm/v7", config={"Env": ["A=1"]})
    manifest, config = json.loads(image.raw), json.loads(image.config)
    assert manifest["mediaType"] == image.media_type
    assert manifest["config"]["digest"] == image.config_digest
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in image.layers]
    assert config["rootfs"]["diff_ids"] == list(image.diff_ids)
    assert (config["architecture"], config["variant"], config["config"]) == ("arm", "v7", {"Env": ["A=1"]})
    both = images.index({"linux/arm/v7": image}, docker=docker)
    (entry,) = json.loads(both.raw)["manifests"]
    assert (entry["digest"], entry["size"]) == (image.digest, len(image.raw))
    assert entry["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    assert set(both.manifests) == {both.digest, image.digest}
    assert both.blobs == image.blobs
