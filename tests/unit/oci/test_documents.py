from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from imgpull.errors import ImageError, InvalidImageError, PlatformNotFoundError, UnsupportedMediaTypeError
from imgpull.oci import Digest, Index, Manifest, Platform, media_types, parse_document

OCI_MANIFEST, OCI_INDEX = media_types.OCI_MANIFEST, media_types.OCI_INDEX
DOCKER_MANIFEST, DOCKER_INDEX = media_types.DOCKER_MANIFEST, media_types.DOCKER_INDEX
ALL = [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_INDEX]


def entry(content: bytes, media_type: str, **members: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": Digest.of_bytes(content), "size": len(content), **members}


CONFIG = entry(b"config", media_types.OCI_CONFIG)
LAYERS = [entry(b"a", media_types.OCI_LAYER_GZIP), entry(b"b", media_types.OCI_LAYER_ZSTD)]
MANIFESTS = [
    entry(b"arm", OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"}),
    entry(b"amd", OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}),
    entry(b"att", OCI_MANIFEST, platform={"os": "unknown", "architecture": "unknown"}),
]


def manifest(**members: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": CONFIG, "layers": LAYERS, **members}).encode()


def index(**members: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": MANIFESTS, **members}).encode()


def test_a_manifest_is_read_and_its_bytes_are_kept() -> None:
    raw = b" " + manifest(annotations={"k": "v"}, artifactType="a/b", subject=entry(b"s", OCI_MANIFEST)) + b"\n"
    read = Manifest.parse(raw)
    assert (read.raw, read.digest, read.media_type) == (raw, Digest.of_bytes(raw), OCI_MANIFEST)
    assert read.config.digest == CONFIG["digest"]
    assert [layer.digest for layer in read.layers] == [layer["digest"] for layer in LAYERS]
    assert (read.annotations, read.artifact_type) == ({"k": "v"}, "a/b")
    assert read.subject is not None and read.subject.size_bytes == 1
    assert pickle.loads(pickle.dumps(read)) == read and hash(read)
    assert "schemaVersion" not in repr(read)


def test_an_index_is_read_and_its_bytes_are_kept() -> None:
    raw = index(mediaType=DOCKER_INDEX, subject=entry(b"s", OCI_MANIFEST))
    read = Index.parse(raw, DOCKER_INDEX)
    assert (read.raw, read.digest, read.media_type) == (raw, Digest.of_bytes(raw), DOCKER_INDEX)
    assert read.platforms[:2] == (Platform("linux", "arm64"), Platform("linux", "amd64"))
    assert read.select(Platform("linux", "amd64")).digest == MANIFESTS[1]["digest"]
    assert pickle.loads(pickle.dumps(read)) == read and hash(read)
    with pytest.raises(PlatformNotFoundError) as caught:
        read.select(Platform("linux", "s390x"))
    assert caught.value.available == ("linux/arm64", "linux/amd64")


def test_the_digest_is_made_with_the_algorithm_that_was_asked_for() -> None:
    raw = manifest()
    assert parse_document(raw, algorithm="sha512").digest == Digest.of_bytes(raw, "sha512")


# containerd core/images TestValidateMediaType: four media types, each with a manifest and an index ...
@pytest.mark.parametrize("media_type", ALL)
@pytest.mark.parametrize("document", [manifest(), index()], ids=["manifest", "index"])
def test_the_shape_must_be_what_the_type_says(media_type: str, document: bytes) -> None:
    is_index = b"manifests" in document
    if media_types.is_index(media_type) == is_index:
        read = parse_document(document, media_type)
        assert isinstance(read, Index if is_index else Manifest) and read.media_type == media_type
        assert parse_document(document, None, media_type) == read
    else:
        for claims in ((media_type, None), (None, media_type)):
            with pytest.raises(InvalidImageError, match="has the form of"):
                parse_document(document, *claims)


# ... and sixteen pairs of mediaType field and type from outside. containerd lets docker and OCI pass for one another;
# here, as distribution-spec asks of clients, the two have to be equal.
@pytest.mark.parametrize("outside", ALL)
@pytest.mark.parametrize("field", ALL)
def test_the_media_type_field_must_be_what_the_type_says(field: str, outside: str) -> None:
    document = index(mediaType=field) if media_types.is_index(field) else manifest(mediaType=field)
    if field == outside:
        assert parse_document(document, outside, outside).media_type == field
    else:
        for claims in ((outside, None), (None, outside)):
            with pytest.raises(InvalidImageError, match="ambiguous"):
                parse_document(document, *claims)


def test_content_type_and_descriptor_must_agree() -> None:
    with pytest.raises(InvalidImageError, match="the Content-Type says .*, its descriptor says"):
        parse_document(manifest(), OCI_MANIFEST, DOCKER_MANIFEST)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "application/json; charset=utf-8", "text/plain", "application/octet-stream"],
)
def test_a_generic_content_type_says_nothing(content_type: str | None) -> None:
    assert parse_document(manifest(), content_type).media_type == OCI_MANIFEST
    assert parse_document(index(), content_type).media_type == OCI_INDEX
    assert parse_document(manifest(mediaType=DOCKER_MANIFEST), content_type).media_type == DOCKER_MANIFEST


def test_parameters_and_case_of_a_content_type_do_not_count() -> None:
    upper = OCI_MANIFEST.upper() + "; charset=UTF-8"
    assert parse_document(manifest(mediaType=OCI_MANIFEST), upper).media_type == OCI_MANIFEST


SCHEMA1 = {"schemaVersion": 1, "name": "n", "tag": "t", "fsLayers": [], "history": []}


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        (json.dumps(SCHEMA1).encode(), None),
        (json.dumps(SCHEMA1).encode(), "text/plain"),
        (manifest(fsLayers=[]), OCI_MANIFEST),
        (manifest(fsLayers=None), OCI_MANIFEST),
        (manifest(schemaVersion=1), None),
        (manifest(), media_types.SCHEMA1[0]),
        (manifest(), media_types.SCHEMA1[1] + "; charset=utf-8"),
        (manifest(mediaType=media_types.SCHEMA1[1]), None),
    ],
)
def test_schema_1_is_refused_by_name(document: bytes, content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="schema 1, which is not supported") as caught:
        parse_document(document, content_type)
    assert caught.value.digest == Digest.of_bytes(document)


@pytest.mark.parametrize(
    "document",
    [
        manifest(manifests=MANIFESTS),
        manifest(manifests=[]),
        manifest(manifests=None),
        json.dumps({"schemaVersion": 2, "manifests": MANIFESTS, "layers": LAYERS}).encode(),
        json.dumps({"schemaVersion": 2, "manifests": MANIFESTS, "config": CONFIG}).encode(),
        manifest(Manifests=MANIFESTS),
        index(Layers=LAYERS),
        index(MEDIATYPE=OCI_INDEX),
        manifest(FSLayers=[]),
    ],
)
@pytest.mark.parametrize("content_type", [None, OCI_MANIFEST, OCI_INDEX])
def test_a_document_with_two_meanings_is_refused(document: bytes, content_type: str | None) -> None:
    with pytest.raises(InvalidImageError, match=r"ambiguous"):
        parse_document(document, content_type)


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"null",
        b"{}",
        b"",
        b'{"schemaVersion": 2}',
        manifest(schemaVersion=3),
        manifest(schemaVersion="2"),
        manifest(schemaVersion=True),
        manifest(mediaType=1),
        manifest(config=None),
        manifest(config=[]),
        manifest(layers={}),
        manifest(layers=[None]),
        manifest(layers=[{**LAYERS[0], "size": -1}]),
        manifest(annotations=[]),
        manifest(subject="x"),
        index(manifests={}),
        index(manifests=["x"]),
        json.dumps({"schemaVersion": 2, "config": CONFIG}).encode(),
        json.dumps({"schemaVersion": 2, "layers": LAYERS}).encode(),
        manifest()[:-1] + b', "layers": []}',
    ],
)
def test_a_document_that_breaks_the_specification_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidImageError):
        parse_document(document)


@pytest.mark.parametrize("claim", ["text/html", "application/vnd.oci.artifact.manifest.v1+json", "image/png"])
def test_a_document_of_another_type_is_unsupported(claim: str) -> None:
    for document, *claims in (
        (manifest(), claim, None),
        (manifest(), None, claim),
        (manifest(mediaType=claim), None, None),
    ):
        with pytest.raises(UnsupportedMediaTypeError, match="is no image") as caught:
            parse_document(document, *claims)
        assert caught.value.media_type == claim


def test_asking_for_the_other_kind_is_an_error() -> None:
    with pytest.raises(InvalidImageError, match="is an index, expected a manifest"):
        Manifest.parse(index())
    with pytest.raises(InvalidImageError, match="is a manifest, expected an index"):
        Index.parse(manifest())


def test_no_layers_is_a_manifest_too() -> None:
    assert Manifest.parse(manifest(layers=[])).layers == ()
    assert Manifest.parse(manifest(layers=None)).layers == ()  # how Go writes a nil slice
    assert Index.parse(index(manifests=[])).manifests == ()


def test_an_absent_schema_version_is_read_as_2() -> None:
    assert parse_document(json.dumps({"config": CONFIG, "layers": []}).encode()).media_type == OCI_MANIFEST


def test_size_counts_a_repeated_layer_once() -> None:
    raw = manifest(layers=[LAYERS[0], LAYERS[1], LAYERS[0]])
    assert Manifest.parse(raw).size_bytes == len(raw) + len(b"config") + 2


def test_two_manifests_with_one_config_keep_their_own_layers() -> None:
    gzip = Manifest.parse(manifest(layers=LAYERS[:1]))
    zstd = Manifest.parse(manifest(layers=LAYERS[1:]))
    assert gzip.config == zstd.config
    assert (gzip.layers[0].digest, zstd.layers[0].digest) == (LAYERS[0]["digest"], LAYERS[1]["digest"])


@pytest.mark.parametrize("config", [media_types.OCI_CONFIG, media_types.DOCKER_CONFIG, "application/octet-stream"])
def test_an_image_is_an_image(config: str) -> None:
    Manifest.parse(manifest(config=entry(b"c", config))).require_image()


@pytest.mark.parametrize(
    "members",
    [
        {"config": entry(b"{}", media_types.EMPTY), "artifactType": "application/vnd.example.sbom"},
        {"config": entry(b"{}", "application/vnd.cncf.helm.config.v1+json")},
        {"layers": [entry(b"x", "application/vnd.in-toto+json")]},
        {"layers": [entry(b"x", f"{media_types.OCI_LAYER}+lzma")]},
    ],
)
def test_an_artifact_is_no_image(members: dict[str, Any]) -> None:
    read = Manifest.parse(manifest(**members))
    with pytest.raises(UnsupportedMediaTypeError):
        read.require_image()


def test_errors_are_one_line_whatever_the_document_says() -> None:
    with pytest.raises(ImageError) as caught:
        parse_document(manifest(mediaType="x\n\x1b[2J" * 100))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 400
