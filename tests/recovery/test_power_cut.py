"""What ``durability="full"`` promises: what was committed survives a power cut, and nothing half made is seen after it.

The power is cut by ext4's own shutdown ioctl, on a file system in a file: the journal's last transactions and all data
that was not synced are gone. The drive's own buffer is not part of the test.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.power import Disk, Worker, damages, loop_disk
from fakes.threads import until
from imgpull.store.durability import Durability

SEED = random.SystemRandom().randrange(1 << 32)
CUTS = 20
MANY = 10_000
"""More than is committed before a cut."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with loop_disk(tmp_path) as made:
        yield made


@pytest.fixture
def worker() -> Iterator[Worker]:
    with contextlib.closing(Worker()) as made:
        yield made


def _cut(disk: Disk, worker: Worker, root: Path, durability: Durability, rng: random.Random) -> list[str]:
    """Cut the power at a random instant of some work; what was committed by then.

    Not what is said afterwards: an fsync that the shutdown overtakes may return 0 where a power cut never returns.
    """
    work, count = worker.begin(root, durability, root.name, MANY), rng.randrange(1, 60)
    until(lambda: len(work.committed) >= count, f"{count} commits")
    time.sleep(rng.uniform(0, 0.03))  # the instant: anywhere between two commits
    if durability == "none":
        disk.flush_journal()
    committed = list(work.committed)
    disk.cut()
    work.wait()
    disk.unmount()
    disk.mount()
    return committed


@pytest.mark.parametrize("durability", ["full", "none"])
def test_the_comparison_finds_nothing_wrong_where_nothing_is(
    disk: Disk, worker: Worker, durability: Durability
) -> None:
    work = worker.begin(disk.root / "store", durability, "clean", 12)
    work.wait()
    assert len(work.committed) == 3 * 12 * 2
    disk.unmount()
    disk.mount()
    assert damages(disk.root / "store", work.committed) == []


def test_the_comparison_sees_damage(disk: Disk, worker: Worker) -> None:
    """The control: names that are durable, data that is not."""
    found = []
    for number in range(3):
        root = disk.root / f"control-{number}"
        found += damages(root, _cut(disk, worker, root, "none", random.Random(number)))
    assert [damage for damage in found if "lost" not in damage], "no blob or snapshot with wrong content was seen"


def test_twenty_cuts(disk: Disk, worker: Worker) -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    committed_at_all = 0
    for number in range(CUTS):
        root = disk.root / f"store-{number}"
        committed = _cut(disk, worker, root, "full", rng)
        committed_at_all += len(committed)
        assert damages(root, committed) == [], f"after cut {number} of seed {SEED}"
    assert committed_at_all > CUTS
