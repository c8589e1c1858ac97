"""Image records: by reference and platform."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import images as fake
from fakes.threads import DEADLINE_SECONDS, start
from fakes.writes import grouped
from imgpull.errors import ContentNotFoundError, ImageNotFoundError, InvalidReferenceError, StoreFullError
from imgpull.oci import Digest, ImageConfig, Manifest, Platform, chain_ids
from imgpull.reference import Reference
from imgpull.store import Image, Layer, Store
from imgpull.store.database import Connection
from imgpull.store.images import Content, Images

REDIS = "docker.io/library/redis:7.2"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store", durability="none") as opened:
        yield opened


def _image(reference: str = REDIS, platform: str = "linux/amd64", text: str = "redis") -> Image:
    made = fake.build([{"etc/name": text}, {"etc/platform": platform}], platform=platform, config={"Env": ["A=b"]})
    config, manifest = ImageConfig.parse(made.config), Manifest.parse(made.raw)
    chains = chain_ids(config.diff_ids)
    layers = tuple(
        Layer(one.digest, one.media_type, one.size_bytes, diff_id, chain_id)
        for one, diff_id, chain_id in zip(manifest.layers, config.diff_ids, chains, strict=True)
    )
    return Image(
        reference=reference,
        digest=Digest.of_bytes(b"the index"),
        manifest_digest=Digest(made.digest),
        platform=Platform.parse(platform),
        config=config,
        layers=layers,
        chain_id=chains[-1],
        size_bytes=manifest.size_bytes,
    )


def _put(store: Store, image: Image) -> None:
    """Record it, with the blobs that the record promises."""
    for digest in image.promised:
        Path(store.content.blobs.path(digest)).write_bytes(b"")
    store.images.put(image)


class TestPutAndGet:
    def test_a_record_comes_back_as_it_was(self, store: Store) -> None:
        image = replace(_image(), content="drop", unpacked=True, snapshotter="native")
        _put(store, image)
        assert store.images.get(REDIS) == image
        assert pickle.loads(pickle.dumps(image)) == image

    @pytest.mark.parametrize("text", ["redis:7.2", "library/redis:7.2", "index.docker.io/library/redis:7.2", REDIS])
    def test_any_form_of_the_reference_will_do(self, store: Store, text: str) -> None:
        _put(store, _image(text))
        assert store.images.get(text).reference == REDIS
        assert store.images.get(Reference.parse(text)).reference == REDIS

    def test_a_later_record_replaces_an_earlier_one(self, store: Store) -> None:
        _put(store, _image(text="old"))
        new = _image(text="new")
        _put(store, new)
        assert store.images.list() == [new]
        rows = store.database.query("SELECT digest FROM image_blobs")
        assert {row["digest"] for row in rows} == new.blobs

    def test_list_is_in_order(self, store: Store) -> None:
        for reference, platform in (("b", "linux/s390x"), ("a", "linux/amd64"), ("b", "linux/amd64")):
            _put(store, _image(reference, platform))
        listed = [(image.reference, str(image.platform)) for image in store.images.list()]
        assert listed == [
            ("docker.io/library/a:latest", "linux/amd64"),
            ("docker.io/library/b:latest", "linux/amd64"),
            ("docker.io/library/b:latest", "linux/s390x"),
        ]

    def test_what_is_not_here(self, store: Store) -> None:
        with pytest.raises(ImageNotFoundError, match=f"{REDIS} is not in the store: pull it first"):
            store.images.get("redis:7.2")
        with pytest.raises(InvalidReferenceError):
            store.images.get("Not A Reference")


class TestPlatforms:
    def test_each_has_a_record_of_its_own(self, store: Store) -> None:
        for platform in ("linux/amd64", "linux/arm64", "linux/arm/v6"):
            _put(store, _image(platform=platform))
        assert str(store.images.get(REDIS, "linux/arm64/v8").platform) == "linux/arm64"
        assert str(store.images.get(REDIS, Platform.parse("linux/arm/v6")).platform) == "linux/arm/v6"
        with pytest.raises(
            ImageNotFoundError, match="for linux/s390x, only for linux/amd64, linux/arm/v6, linux/arm64"
        ):
            store.images.get(REDIS, "linux/s390x")

    @pytest.mark.parametrize(
        ("host", "here", "found"),
        [
            ("linux/amd64", ("linux/arm64", "linux/amd64"), "linux/amd64"),
            ("linux/arm64", ("linux/arm/v6", "linux/arm/v7"), "linux/arm/v7"),
            ("linux/amd64", ("linux/s390x",), "linux/s390x"),
            ("linux/amd64", ("linux/s390x", "linux/arm64"), None),
        ],
    )
    def test_unasked_it_is_the_hosts_or_the_only_one(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, host: str, here: tuple[str, ...], found: str | None
    ) -> None:
        monkeypatch.setattr(Platform, "host", lambda: Platform.parse(host))
        for platform in here:
            _put(store, _image(platform=platform))
        if found is None:
            with pytest.raises(ImageNotFoundError, match="only for linux/arm64, linux/s390x"):
                store.images.get(REDIS)
        else:
            assert str(store.images.get(REDIS).platform) == found

    def test_windows_builds_are_told_apart(self, store: Store) -> None:
        for version in ("10.0.17763.1", "10.0.20348.2"):
            platform = Platform("windows", "amd64", os_version=version, os_features=("win32k",))
            _put(store, replace(_image(), platform=platform))
        assert [image.platform.os_version for image in store.images.list()] == ["10.0.17763.1", "10.0.20348.2"]
        assert {image.platform.os_features for image in store.images.list()} == {("win32k",)}


class TestTag:
    def test_the_new_name_means_the_same_for_every_platform(self, store: Store) -> None:
        for platform in ("linux/amd64", "linux/arm64"):
            _put(store, _image(platform=platform))
        store.images.tag("redis:7.2", "registry.example/mirror/redis:stable")
        new = "registry.example/mirror/redis:stable"
        for platform in ("linux/amd64", "linux/arm64"):
            assert store.images.get(new, platform) == replace(store.images.get(REDIS, platform), reference=new)
        assert len(store.images.list()) == 4

    def test_for_one_platform_only(self, store: Store) -> None:
        for platform in ("linux/amd64", "linux/arm64"):
            _put(store, _image(platform=platform))
        store.images.tag(REDIS, "valkey", "linux/arm64")
        assert [str(image.platform) for image in store.images.list() if "valkey" in image.reference] == ["linux/arm64"]

    def test_a_digest_is_no_tag(self, store: Store) -> None:
        _put(store, _image())
        with pytest.raises(InvalidReferenceError, match="names a digest"):
            store.images.tag(REDIS, f"redis@{Digest.of_bytes(b'x')}")

    def test_what_is_not_here(self, store: Store) -> None:
        with pytest.raises(ImageNotFoundError):
            store.images.tag(REDIS, "valkey")
        assert store.images.list() == []


class TestRemove:
    def test_for_every_platform_or_one(self, store: Store) -> None:
        for platform in ("linux/amd64", "linux/arm64", "linux/s390x"):
            _put(store, _image(platform=platform))
        _put(store, _image("valkey"))
        assert [str(image.platform) for image in store.images.remove(REDIS, "linux/arm64")] == ["linux/arm64"]
        assert [str(image.platform) for image in store.images.remove(REDIS)] == ["linux/amd64", "linux/s390x"]
        assert [image.reference for image in store.images.list()] == ["docker.io/library/valkey:latest"]
        with pytest.raises(ImageNotFoundError):
            store.images.remove(REDIS)

    def test_another_name_for_the_same_image_stays(self, store: Store) -> None:
        _put(store, _image())
        store.images.tag(REDIS, "valkey")
        store.images.remove(REDIS)
        image = store.images.get("valkey")
        rows = store.database.query("SELECT digest FROM image_blobs")
        assert {row["digest"] for row in rows} == image.blobs


class TestAtTheSameTime:
    """The record that is meant is chosen in the write that changes it."""

    @pytest.mark.parametrize("change", [lambda images: images.tag(REDIS, "new"), lambda images: images.remove(REDIS)])
    def test_one_that_is_removed_first_is_not_there(self, store: Store, change: Callable[[Images], object]) -> None:
        image = _image()
        _put(store, image)
        first, second = grouped(store.database, [lambda: store.images.remove(REDIS), lambda: change(store.images)])
        assert first.outcome() == [image]
        with pytest.raises(ImageNotFoundError):
            second.outcome()
        assert store.images.list() == []

    def test_a_tag_names_what_the_reference_means_by_then(self, store: Store) -> None:
        _put(store, _image())
        later = _image(text="later")
        for digest in later.promised:
            Path(store.content.blobs.path(digest)).write_bytes(b"")
        grouped(store.database, [lambda: store.images.put(later), lambda: store.images.tag(REDIS, "new")])
        assert store.images.get("new", "linux/amd64").manifest_digest == later.manifest_digest

    def test_a_tag_promises_nothing_that_is_not_here(self, store: Store) -> None:
        _put(store, _image())
        store.content.blobs.remove(_image().layers[0].digest)
        with pytest.raises(ContentNotFoundError, match="pull again"):
            store.images.tag(REDIS, "new")
        assert [image.reference for image in store.images.list()] == [REDIS]


class TestWhatARecordPromises:
    @pytest.mark.parametrize(
        ("content", "unpacked", "keeps_layers", "promises_layers"),
        [
            ("full", True, True, True),
            ("full", False, True, True),
            ("lazy", True, True, False),
            ("lazy", False, True, True),
            ("drop", True, False, False),
            ("drop", False, True, True),
        ],
    )
    def test_its_layers_or_its_documents(
        self, store: Store, content: Content, unpacked: bool, keeps_layers: bool, promises_layers: bool
    ) -> None:
        image = replace(_image(), content=content, unpacked=unpacked)
        layers = {layer.digest for layer in image.layers}
        documents = {image.digest, image.manifest_digest, image.config_digest}
        assert image.blobs == layers | documents
        assert image.kept == documents | (layers if keeps_layers else set())
        assert image.promised == documents | (layers if promises_layers else set())
        _put(store, image)
        rows = store.database.query("SELECT digest FROM image_blobs")
        assert {row["digest"] for row in rows} == image.kept
        assert store.images.get(REDIS) == image

    @pytest.mark.parametrize("number", range(5))
    def test_one_that_would_lie_is_refused(self, store: Store, number: int) -> None:
        """A blob that was here when a pull looked, and went before its record came."""
        image = _image()
        assert len(image.promised) == 5
        for digest in sorted(image.promised):
            Path(store.content.blobs.path(digest)).write_bytes(b"")
        gone = sorted(image.promised)[number]
        store.content.remove(gone)
        with pytest.raises(ContentNotFoundError, match=gone):
            store.images.put(image)
        assert store.images.list() == []


class TestDroppingLayers:
    def test_they_go_once_no_record_keeps_them(self, store: Store) -> None:
        layers = [layer.digest for layer in _image().layers]
        _put(store, _image())
        _put(store, replace(_image("valkey"), content="lazy", unpacked=True))
        assert [store.content.drop(digest) for digest in layers] == [False, False]
        store.images.remove("valkey")
        assert [store.content.drop(digest) for digest in layers] == [False, False]
        assert all(digest in store.content for digest in layers)
        dropped = replace(_image(), content="drop", unpacked=True)
        store.images.put(dropped)
        assert [store.content.drop(digest) for digest in layers] == [True, True]
        assert not any(digest in store.content for digest in layers)
        assert {info.digest for info in store.content.walk()} == dropped.kept

    def test_one_that_is_gone(self, store: Store) -> None:
        assert store.content.drop(Digest.of_bytes(b"x"))

    def test_what_is_known_of_it_goes_too_but_not_its_diff_id(self, store: Store) -> None:
        with store.content.writer("x") as writer:
            writer.write(b"x")
            digest = writer.commit(labels={"a": "b"}).digest
        store.content.record_diff_id(digest, digest)
        store.content.drop(digest)
        assert store.database.query("SELECT * FROM blobs") == []
        assert store.content.diff_id(digest) == digest

    def test_a_reader_keeps_what_it_has_open(self, store: Store) -> None:
        _put(store, replace(_image(), content="drop"))
        with store.content.open(_image().digest) as blob:
            store.images.remove(REDIS)
            assert store.content.drop(_image().digest)
            assert blob.read() == b""

    def test_a_record_that_comes_while_a_blob_is_dropped_is_refused(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full pull found the blob here, and has nothing left to do but to record its image."""
        image = _image()
        _put(store, replace(image, content="drop", unpacked=True))
        for digest in image.promised:
            Path(store.content.blobs.path(digest)).write_bytes(b"")
        remove, dropping, go_on = store.content.blobs.remove, threading.Event(), threading.Event()

        def remove_late(digest: str) -> None:
            dropping.set()
            assert go_on.wait(DEADLINE_SECONDS)
            remove(digest)

        monkeypatch.setattr(type(store.content.blobs), "remove", lambda _, digest: remove_late(digest))
        drop = start(lambda: store.content.drop(image.layers[0].digest))
        assert dropping.wait(DEADLINE_SECONDS)
        put = start(lambda: store.images.put(replace(image, reference="docker.io/library/full:latest")))
        put.join(0.05)  # were it not for the write it waits for, it would be done by now
        go_on.set()
        assert drop.outcome() is True
        with pytest.raises(ContentNotFoundError):
            put.outcome()

    def test_a_record_that_goes_at_the_same_time_and_does_not_get_through(self, store: Store) -> None:
        """The disk is full, or the process dies, before the commit: the record stands, and its blobs are here."""
        image = _image()
        _put(store, image)
        tries = 0

        def remove(connection: Connection) -> None:
            nonlocal tries
            tries += 1
            if tries > 1:
                raise StoreFullError("no space left")
            connection.execute("DELETE FROM images")
            connection.execute("DELETE FROM image_blobs")

        def lose(connection: Connection) -> None:
            connection.execute("ROLLBACK")  # as SQLite does by itself on a full disk
            raise StoreFullError("no space left")

        grouped(
            store.database,
            [
                lambda: store.database.write(remove),
                lambda: store.content.drop(image.layers[0].digest),
                lambda: store.database.write(lose),
            ],
        )
        assert all(digest in store.content for image in store.images.list() for digest in image.promised)

    def test_many_go_in_one_write_but_for_those_that_are_kept(self, store: Store) -> None:
        image, *others = (Digest.of_bytes(text) for text in (b"the index", b"x", b"y"))
        _put(store, replace(_image(), content="drop", unpacked=True))
        for digest in others:
            Path(store.content.blobs.path(digest)).write_bytes(b"")
        before = store.database.transactions
        assert store.content.drop(*others, image) is False
        assert store.database.transactions - before == 1
        assert [digest in store.content for digest in (image, *others)] == [True, False, False]
        assert store.content.drop(*others) is True
        assert store.database.transactions - before == 1

    def test_one_that_goes_while_it_is_dropped(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        with store.content.writer("x") as writer:
            writer.write(b"x")
            digest = writer.commit().digest
        remove = store.content.blobs.remove

        def remove_twice(digest: str) -> None:
            remove(digest)
            remove(digest)

        monkeypatch.setattr(type(store.content.blobs), "remove", lambda _, digest: remove_twice(digest))
        assert store.content.drop(digest) is True
