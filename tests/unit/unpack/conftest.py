"""A chain of layers in a directory of its own, beside a victim that no layer may touch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.archives import Chain
from fakes.trees import read_tree


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    """Whatever the layers hold: the victim beside the root, and the process's own directory, stay as they were."""
    place = tmp_path / "store"
    place.mkdir()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "hello").write_text("hello")
    os.chmod(victim / "hello", 0o400)
    (victim / "empty").mkdir()
    (tmp_path / "layer-evil").mkdir()
    before = read_tree(victim), os.lstat(victim / "hello").st_nlink, sorted(os.listdir(tmp_path))
    yield Chain(place)
    assert (read_tree(victim), os.lstat(victim / "hello").st_nlink, sorted(os.listdir(tmp_path))) == before
