"""Every test of a snapshotter runs on each file system and with each form of view that this machine lets it have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fakes.filesystems import end_mounts, mounted
from fakes.snapshots import KINDS, NOON, Kind, Opener
from imgpull.store.database import Database
from imgpull.store.snapshots import Snapshots
from imgpull.store.snapshots.removal import remove_tree


@pytest.fixture(scope="session")
def filesystem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """One of each kind, mounted at first use below this worker's own directory, and ended with the session."""
    points: dict[str, Path] = {}
    with ExitStack() as mounts:

        def get(kind: str) -> Path:
            if kind not in points:
                points[kind] = mounts.enter_context(mounted(kind, tmp_path_factory.mktemp(kind)))
            return points[kind]

        yield get


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def place(kind: Kind, filesystem: Callable[[str], Path], tmp_path: Path) -> Iterator[Path]:
    """An empty directory, from which every mount must be gone at the end."""
    made = tmp_path if kind.filesystem is None else filesystem(kind.filesystem) / tmp_path.name
    made.mkdir(exist_ok=True)
    yield made
    left = end_mounts(made)
    if made != tmp_path:
        remove_tree(made)
    assert left == [], "left mounted"


@pytest.fixture
def database(place: Path) -> Iterator[Database]:
    made = Database(place / "metadata.db", place / "metadata.lock", durability="none")
    yield made
    made.close()


@pytest.fixture
def opened(kind: Kind, place: Path, database: Database) -> Opener:
    def make(*, durable: bool = False, read_only: bool = False) -> Snapshots:
        return Snapshots(
            place / "snapshots",
            database,
            durable=durable,
            read_only=read_only,
            early_sync_seconds=None,  # no step but those a test asks for
            clock=lambda: NOON,
            forms=kind.forms(),
        )

    return make


@pytest.fixture
def snapshots(opened: Opener) -> Iterator[Snapshots]:
    made = opened()
    yield made
    made.close()
