"""Images made of other images, the store that rmi leaves, and the commit a result belongs to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import imgpull
from benchmarks.derived import lowest_layers, siblings
from benchmarks.environment import commit_of
from benchmarks.layers import BuiltLayer, LayerWriter
from benchmarks.layout import LayoutWriter, build_layout, facts_of
from benchmarks.processes import empty_store
from benchmarks.scenarios import Setting
from imgpull.serve import Server


def write(layout: LayoutWriter) -> Sequence[BuiltLayer]:
    made = []
    for number in range(3):
        with LayerWriter(layout.blobs, "gzip", f"step {number}") as writer:
            writer.file(f"file-{number}", b"x" * 1000)
            made.append(writer.finish())
    return made


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    build_layout(tmp_path / "image", write, "image:latest", {}, "recipe 1")
    return tmp_path / "image"


def pulled(layout: Path, store: imgpull.Store) -> list[str]:
    """The names in the image's root, pulled from a server of the layout."""
    with Server(layout) as server, imgpull.Puller(store) as puller:
        image = puller.pull(f"{server.address}/{facts_of(layout).name}")
    with store.snapshots.view(image.chain_id) as rootfs:
        return list(rootfs.listdir("/"))


def test_the_lowest_layers_are_an_image(layout: Path, tmp_path: Path) -> None:
    lower = lowest_layers(layout, 2, tmp_path / "derived")
    assert facts_of(lower).chains == facts_of(layout).chains[:2]
    with imgpull.Store(tmp_path / "store", durability="none") as store:
        assert pulled(lower, store) == ["file-0", "file-1"]
    with pytest.raises(ValueError, match="3 layers, not 4"):
        lowest_layers(layout, 4, tmp_path / "more")


def test_siblings_share_all_but_their_own_layer(layout: Path, tmp_path: Path) -> None:
    made = siblings(layout, 2, tmp_path / "derived")
    first, second = (facts_of(one) for one in made)
    assert first.chains[:3] == second.chains[:3] == facts_of(layout).chains
    assert first.chains[3] != second.chains[3]
    assert first.name != second.name
    assert Setting("image", tuple(made)).image_layers == 5
    with imgpull.Store(tmp_path / "store", durability="none") as store:
        assert pulled(made[1], store) == ["file-0", "file-1", "file-2", "srv"]


def test_an_emptied_store_is_a_store_with_nothing_in_it(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    empty_store(str(root))
    assert not root.exists()
    with imgpull.Store(root, durability="none") as store:
        pulled(layout, store)
    empty_store(str(root))
    with imgpull.Store(root, durability="none") as store:
        assert (store.images.list(), list(store.snapshots.walk()), list(store.content.walk())) == ([], [], [])
        assert pulled(layout, store) == ["file-0", "file-1", "file-2"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not on PATH")
def test_a_result_names_its_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "results").touch()
    assert commit_of(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"
