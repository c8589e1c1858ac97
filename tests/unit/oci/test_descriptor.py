from __future__ import annotations

import base64
import hashlib
import pickle
from typing import Any

import pytest

from imgpull.errors import InvalidImageError, UnsupportedMediaTypeError
from imgpull.oci import Descriptor, Digest, Platform

HELLO = b"hello"
SHA256 = f"sha256:{hashlib.sha256(HELLO).hexdigest()}"
SHA512 = f"sha512:{hashlib.sha512(HELLO).hexdigest()}"
EMPTY = f"sha256:{hashlib.sha256(b'').hexdigest()}"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(**members: Any) -> Descriptor:
    return Descriptor.from_json({"mediaType": LAYER, "digest": SHA256, "size": 5, **members}, "layers[0]")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_every_field_is_read() -> None:
    read = descriptor(
        annotations={"a": "b"},
        urls=["https://example.com/x"],
        platform={"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1", "os.features": ["f"]},
        data=encoded(HELLO),
        artifactType="application/x",
    )
    assert read == Descriptor(
        media_type=LAYER,
        digest=Digest(SHA256),
        size_bytes=5,
        annotations=read.annotations,
        urls=("https://example.com/x",),
        platform=Platform("linux", "arm", "v7", "1", ("f",)),
        data=HELLO,
        artifact_type="application/x",
    )
    assert read.annotations == {"a": "b"}
    assert pickle.loads(pickle.dumps(read)) == read
    assert hash(read) == hash(pickle.loads(pickle.dumps(read)))
    assert "aGVsbG8" not in repr(read) and "b'hello'" not in repr(read)


def test_what_is_absent_or_null_is_empty() -> None:
    bare = descriptor()
    assert (bare.annotations, bare.urls, bare.platform, bare.data, bare.artifact_type) == ({}, (), None, None, "")
    assert descriptor(annotations=None, urls=None, platform=None, data=None) == bare


def test_the_identifying_fields_are_written_back() -> None:
    read = descriptor(annotations={"a": "b"})
    assert Descriptor.from_json(read.to_json(), "x") == read


@pytest.mark.parametrize(
    "members",
    [
        {"size": -1},
        {"size": 2**63},
        {"size": 1e3},
        {"size": True},
        {"size": "12"},
        {"size": None},
        {"digest": None},
        {"digest": "sha256:../../etc"},
        {"digest": f"{SHA256}\n"},
        {"digest": 1},
        {"mediaType": None},
        {"mediaType": ""},
        {"mediaType": "text/\x1b[2J"},
        {"mediaType": "text/plain\r\nX: y"},
        {"mediaType": "x" * 300},
        {"annotations": {"a": 1}},
        {"annotations": []},
        {"urls": "https://example.com"},
        {"urls": [1]},
        {"platform": "linux/amd64"},
        {"platform": {"os": 1}},
        {"data": 1},
        {"artifactType": []},
    ],
    ids=str,
)
def test_a_field_of_the_wrong_form_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidImageError) as caught:
        descriptor(**members)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "sha256:", 1])
def test_a_descriptor_is_an_object(value: object) -> None:
    with pytest.raises(InvalidImageError, match=r"layers\[0\] must be an object"):
        Descriptor.from_json(value, "layers[0]")


# containerd core/content TestUseDescriptorData, its 11 cases
@pytest.mark.parametrize(
    ("members", "data"),
    [
        pytest.param({"data": encoded(HELLO)}, HELLO, id="matching size and sha256"),
        pytest.param({"data": encoded(HELLO), "digest": SHA512}, HELLO, id="matching size and sha512"),
        pytest.param({"size": 0, "digest": EMPTY}, b"", id="absent, size 0, digest of nothing"),
        pytest.param({"data": "", "size": 0, "digest": EMPTY}, b"", id="empty, size 0"),
        pytest.param({"data": encoded(HELLO), "size": 3}, None, id="longer than size"),
        pytest.param({"data": encoded(HELLO), "size": 9}, None, id="shorter than size"),
        pytest.param({"data": encoded(HELLO), "size": 6}, None, id="shorter, same number of base64 digits"),
        pytest.param({"size": 5}, None, id="absent, size 5"),
        pytest.param({"data": encoded(b"hellO")}, None, id="other digest"),
        pytest.param({"size": 0}, None, id="absent, size 0, other digest"),
        pytest.param({"data": "aGVsbG8"}, None, id="padding missing"),
        pytest.param({"data": "aGVs bG8"}, None, id="white space"),
        pytest.param({"data": "aGVsbG8*"}, None, id="no base64"),
        pytest.param({"data": "aGVsbG\u00e9="}, None, id="not ASCII"),
    ],
)
def test_embedded_data_is_used_only_if_size_and_digest_match(members: dict[str, Any], data: bytes | None) -> None:
    assert descriptor(**members).data == data


def test_a_digest_that_can_not_be_checked_is_an_error_even_with_data() -> None:
    for malformed in ("sha256:abc", ""):
        with pytest.raises(InvalidImageError):
            descriptor(data=encoded(HELLO), digest=malformed)
    with pytest.raises(UnsupportedMediaTypeError):
        descriptor(data=encoded(HELLO), digest="md5:5d41402abc4b2a76b9719d911017c592")
