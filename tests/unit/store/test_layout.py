"""The store as an OCI image layout: what is listed, when it is written again, and that others can read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes import images as fake
from fakes import scripts
from fakes.threads import start, together, until
from imgpull.errors import AlreadyExistsError
from imgpull.oci import Digest, ImageConfig, Manifest, Platform, chain_ids
from imgpull.store import Image, Layer, Store, layout
from imgpull.store.images import Content
from imgpull.store.layout import Layout

REDIS = "docker.io/library/redis:7.2"
MADE = fake.build([{"etc/name": "redis"}, {"etc/more": "x" * 1000}])
ARM = fake.build([{"etc/name": "redis for arm"}], platform="linux/arm64")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store(root) as opened:
        yield opened


def _keep(store: Store, made: fake.Image) -> None:
    for digest, raw in {made.digest: made.raw, **made.blobs}.items():
        try:
            with store.content.writer(digest, expected=digest) as writer:
                writer.write(raw)
                writer.commit()
        except AlreadyExistsError:
            continue


def _record(made: fake.Image, reference: str = REDIS) -> Image:
    config, manifest = ImageConfig.parse(made.config), Manifest.parse(made.raw)
    chains = chain_ids(config.diff_ids)
    layers = tuple(
        Layer(one.digest, one.media_type, one.size_bytes, diff_id, chain_id)
        for one, diff_id, chain_id in zip(manifest.layers, config.diff_ids, chains, strict=True)
    )
    digest = Digest(made.digest)
    return Image(reference, digest, digest, config.platform, config, layers, chains[-1], manifest.size_bytes)


def _index(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "index.json").read_bytes())
    return found


def _names(root: Path) -> list[str]:
    return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in _index(root)["manifests"]]


class TestWhatIsListed:
    def test_an_image_whose_blobs_are_all_here(self, store: Store, root: Path) -> None:
        _keep(store, MADE)
        assert _index(root)["manifests"] == []
        store.images.put(_record(MADE))
        index = _index(root)
        assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
        assert index["manifests"] == [
            {
                "mediaType": MADE.media_type,
                "digest": MADE.digest,
                "size": len(MADE.raw),
                "platform": {"architecture": "amd64", "os": "linux"},
                "annotations": {"org.opencontainers.image.ref.name": REDIS, "io.containerd.image.name": REDIS},
            }
        ]

    @pytest.mark.parametrize("missing", ["manifest", "config", "layer"])
    def test_not_one_that_lacks_a_blob_until_that_is_back(self, store: Store, root: Path, missing: str) -> None:
        _keep(store, MADE)
        store.images.put(_record(MADE))
        digest = {"manifest": MADE.digest, "config": MADE.config_digest, "layer": MADE.layers[1].digest}[missing]
        store.content.remove(digest)
        assert _names(root) == []
        _keep(store, MADE)
        store.images.put(_record(MADE))
        assert _names(root) == [REDIS]

    def test_a_blob_that_no_image_needs_changes_nothing(self, store: Store, root: Path) -> None:
        _keep(store, MADE)
        store.images.put(_record(MADE))
        _keep(store, ARM)
        before = (root / "index.json").stat().st_ino
        store.content.remove(ARM.layers[0].digest)
        assert (root / "index.json").stat().st_ino == before

    @pytest.mark.parametrize(
        ("content", "unpacked", "listed"),
        [("full", False, True), ("lazy", True, True), ("drop", False, True), ("drop", True, False)],
    )
    def test_not_one_whose_layers_may_go_at_any_moment(
        self, store: Store, root: Path, content: Content, unpacked: bool, listed: bool
    ) -> None:
        _keep(store, MADE)
        store.images.put(replace(_record(MADE), content=content, unpacked=unpacked))
        assert _names(root) == ([REDIS] if listed else [])
        for layer in MADE.layers:
            store.content.drop(layer.digest)
        assert _names(root) == ([REDIS] if listed else [])

    def test_a_lazy_one_without_all_its_layers_is_not(self, store: Store, root: Path) -> None:
        _keep(store, MADE)
        store.content.remove(MADE.layers[0].digest)
        store.images.put(replace(_record(MADE), content="lazy", unpacked=True))
        assert _names(root) == []

    def test_tags_and_removals_show(self, store: Store, root: Path) -> None:
        _keep(store, MADE)
        store.images.put(_record(MADE))
        store.images.tag(REDIS, "valkey")
        assert _names(root) == [REDIS, "docker.io/library/valkey:latest"]
        store.images.remove(REDIS)
        assert _names(root) == ["docker.io/library/valkey:latest"]

    @pytest.mark.parametrize("host", ["linux/amd64", "linux/arm64"])
    def test_of_two_platforms_this_machines_comes_first(
        self, store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        monkeypatch.setattr(Platform, "host", lambda: Platform.parse(host))
        for made in (MADE, ARM):
            _keep(store, made)
            store.images.put(_record(made))
        platforms = [f"linux/{entry['platform']['architecture']}" for entry in _index(root)["manifests"]]
        assert platforms == [host, "linux/arm64" if host == "linux/amd64" else "linux/amd64"]

    def test_a_manifest_that_was_damaged_on_the_disk_is_not_listed(self, root: Path) -> None:
        with Store(root) as store:
            _keep(store, MADE)
            store.images.put(_record(MADE))
        blob = root / "blobs" / "sha256" / Digest(MADE.digest).encoded
        blob.chmod(0o644)
        blob.write_bytes(b"{")
        (root / "index.json").unlink()
        with Store(root):
            assert _names(root) == []


class TestWhenItIsWritten:
    def test_at_open_where_it_is_behind(self, root: Path) -> None:
        with Store(root) as store:
            _keep(store, MADE)
            old = (root / "index.json").read_bytes()
            store.images.put(_record(MADE))
        for behind in (old, b"", b"{", b"[" * 100_000, b'{"annotations": {"io.imgpull.generation": "x"}}', None):
            if behind is None:
                (root / "index.json").unlink()
            else:
                (root / "index.json").write_bytes(behind)
            with Store(root):
                assert _names(root) == [REDIS]

    def test_not_at_open_where_it_is_not(self, root: Path) -> None:
        Store(root).close()
        before = (root / "index.json").stat().st_ino
        Store(root).close()
        assert (root / "index.json").stat().st_ino == before

    def test_a_failure_is_made_good_later(self, store: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _keep(store, MADE)

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(layout.os, "rename", refuse)
            store.images.put(_record(MADE))
        assert _names(root) == []
        assert store.images.get(REDIS).reference == REDIS
        with Store(root):
            assert _names(root) == [REDIS]

    def test_many_threads_and_processes_lose_no_image(self, store: Store, root: Path) -> None:
        _keep(store, MADE)
        store.images.put(_record(MADE))
        source = f"""
            from imgpull.store import Store
            print("ready", flush=True); input()
            with Store(sys.argv[1]) as store:
                for number in range(10):
                    store.images.tag({REDIS!r}, f"process{{sys.argv[2]}}:{{number}}")
        """
        scripts.run_together(3, source, root)
        together([lambda n=number: store.images.tag(REDIS, f"thread:{n}") for number in range(8)])
        assert len(_names(root)) == len(store.images.list()) == 1 + 30 + 8
        assert [name for name in os.listdir(root) if name.endswith(".new")] == []

    def test_an_older_state_never_replaces_a_newer_one(
        self, store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _keep(store, MADE)
        store.images.put(_record(MADE))
        plain, entered, gate = Layout._replace, threading.Event(), threading.Event()

        def replace_late(self: Layout, name: str, raw: bytes) -> None:
            if not entered.is_set():
                entered.set()
                assert gate.wait(20)
            plain(self, name, raw)

        monkeypatch.setattr(Layout, "_replace", replace_late)
        older = start(lambda: store.images.tag(REDIS, "a"))
        assert entered.wait(20)
        newer = start(lambda: store.images.tag(REDIS, "b"))
        until(lambda: len(store.images.list()) == 3, "the newer change is committed")
        newer.join(0.1)  # it waits for the lock; without one it would be done by now
        gate.set()
        older.outcome()
        newer.outcome()
        assert len(_names(root)) == 3

    def test_a_reader_never_sees_half_of_it(self, store: Store, root: Path) -> None:
        """It is replaced by rename: what a reader has open stays as it was."""
        with open(root / "index.json", "rb") as reading:
            first = reading.read(10)
            _keep(store, MADE)
            store.images.put(_record(MADE))
            assert json.loads(first + reading.read())["manifests"] == []


@pytest.mark.realpeer
class TestOthersCanReadIt:
    @pytest.fixture(autouse=True)
    def _kept(self, store: Store) -> None:
        for made in (MADE, ARM):
            _keep(store, made)
            store.images.put(_record(made))
        store.images.tag(REDIS, "registry.example:5000/redis:stable")

    @pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
    @pytest.mark.parametrize("name", [REDIS, "registry.example:5000/redis:stable"])
    def test_skopeo(self, root: Path, tmp_path: Path, name: str) -> None:
        said = subprocess.run(
            ["skopeo", "inspect", "--override-os", "linux", "--override-arch", "amd64", f"oci:{root}:{name}"],
            check=True,
            capture_output=True,
        )
        assert json.loads(said.stdout)["Layers"] == [layer.digest for layer in MADE.layers]
        subprocess.run(
            ["skopeo", "copy", "--insecure-policy", f"oci:{root}:{name}", f"oci:{tmp_path}/copy:it"],
            check=True,
            capture_output=True,
        )
        for digest in MADE.blobs:
            assert (tmp_path / "copy" / "blobs" / "sha256" / Digest(digest).encoded).exists()

    @pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")
    def test_umoci(self, root: Path) -> None:
        said = subprocess.run(["umoci", "ls", "--layout", root], check=True, capture_output=True, text=True)
        assert REDIS in said.stdout
