from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from imgpull import limits
from imgpull.errors import InvalidImageError, LimitExceededError, UnsupportedMediaTypeError
from imgpull.oci import Descriptor, Digest, History, ImageConfig, Manifest, Platform, check_layers, media_types

DIFF_IDS = [Digest.of_bytes(b"one"), Digest.of_bytes(b"two")]


def config(**members: Any) -> bytes:
    base = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": DIFF_IDS}}
    return json.dumps({**base, **members}).encode()


def manifest(layers: int) -> Manifest:
    layer = Descriptor(media_types.OCI_LAYER_GZIP, Digest.of_bytes(b"l"), 1)
    return Manifest(
        raw=b"{}",
        media_type=media_types.OCI_MANIFEST,
        digest=Digest.of_bytes(b"{}"),
        config=Descriptor(media_types.OCI_CONFIG, Digest.of_bytes(b"c"), 1),
        layers=(layer,) * layers,
    )


def test_every_field_is_read() -> None:
    raw = config(
        variant="v3",
        created="2024-01-02T03:04:05Z",
        author="me",
        config={
            "User": "4294967296",
            "ExposedPorts": {"6379/tcp": {}},
            "Env": ["PATH=/bin", "X="],
            "Entrypoint": ["docker-entrypoint.sh"],
            "Cmd": ["redis-server"],
            "Volumes": {"/../../etc": {}, "/data": {}},
            "WorkingDir": "/data",
            "Labels": {"a": "b"},
            "StopSignal": "SIGTERM",
        },
        history=[
            {"created": "2024-01-01T00:00:00Z", "created_by": "ADD", "comment": "c", "author": "a"},
            {"created_by": "ENV", "empty_layer": True},
        ],
    )
    read = ImageConfig.parse(raw)
    assert read.raw == raw and read.platform == Platform("linux", "amd64", "v3")
    assert read.diff_ids == tuple(DIFF_IDS)
    assert read.env == ("PATH=/bin", "X=")
    assert (read.entrypoint, read.cmd) == (("docker-entrypoint.sh",), ("redis-server",))
    assert (read.workdir, read.user, read.stop_signal) == ("/data", "4294967296", "SIGTERM")
    assert (read.labels, read.exposed_ports, read.volumes) == ({"a": "b"}, ("6379/tcp",), ("/../../etc", "/data"))
    assert (read.created, read.author) == ("2024-01-02T03:04:05Z", "me")
    assert read.history == (
        History("2024-01-01T00:00:00Z", "ADD", "a", "c"),
        History(created_by="ENV", empty_layer=True),
    )
    assert pickle.loads(pickle.dumps(read)) == read and hash(read)


def test_absent_null_and_empty() -> None:
    read = ImageConfig.parse(config(config=None, history=None, created=None))
    assert (read.env, read.entrypoint, read.cmd, read.labels, read.created, read.history) == (
        (),
        None,
        None,
        {},
        None,
        (),
    )
    assert ImageConfig.parse(config(config={"Entrypoint": [], "Cmd": None})).entrypoint == ()
    assert ImageConfig.parse(config(rootfs={"type": "layers"})).diff_ids == ()
    assert ImageConfig.parse(config(rootfs={"type": "", "diff_ids": None})).diff_ids == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b"",
        b"{}",
        config(rootfs=None),
        config(rootfs=[]),
        config(rootfs={"type": "layers+base", "diff_ids": []}),
        config(rootfs={"type": 1}),
        config(rootfs={"type": "layers", "diff_ids": ["sha256:abc"]}),
        config(rootfs={"type": "layers", "diff_ids": [None]}),
        config(rootfs={"type": "layers", "diff_ids": "x"}),
        config(os=1),
        config(config=[]),
        config(config={"Env": "PATH=/"}),
        config(config={"Entrypoint": "sh"}),
        config(config={"Labels": {"a": 1}}),
        config(config={"Volumes": ["/x"]}),
        config(history={}),
        config(history=["x"]),
        config(history=[{"empty_layer": "yes"}]),
        config()[:-1] + b', "rootfs": {}}',
    ],
)
def test_a_config_that_breaks_the_specification_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidImageError, match="image config|digest"):
        ImageConfig.parse(raw)


def test_an_unknown_algorithm_in_a_diff_id_is_unsupported() -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        ImageConfig.parse(config(rootfs={"type": "layers", "diff_ids": ["md5:d41d8cd98f00b204e9800998ecf8427e"]}))


def test_every_layer_has_a_diff_id() -> None:
    check_layers(manifest(2), ImageConfig.parse(config()))
    for layers in (0, 1, 3):
        with pytest.raises(InvalidImageError, match=f"has {layers} layers, its config .* 2 diff_ids"):
            check_layers(manifest(layers), ImageConfig.parse(config()))


def test_no_layer_at_all_is_an_image() -> None:
    check_layers(manifest(0), ImageConfig.parse(config(rootfs={"type": "layers"})))


def test_too_many_layers_to_stack() -> None:
    at_most = limits.Limits().layers
    for layers in (at_most, at_most + 1):
        read = ImageConfig.parse(config(rootfs={"type": "layers", "diff_ids": DIFF_IDS[:1] * layers}))
        if layers == at_most:
            check_layers(manifest(layers), read)
        else:
            with pytest.raises(LimitExceededError) as caught:
                check_layers(manifest(layers), read)
            assert caught.value.limit == "layers"
