"""Which runs are made, and in which order: ``compare`` and ``scale`` as lists of :class:`~benchmarks.measure.Spec`.

Arms are interleaved: repeat 1 of every arm, then repeat 2 in another order, and so on, so that a machine that warms up
or gets busy does not favour the arm that came first. Before each run the volume is made empty.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.layout import LayerFacts, facts_of
from benchmarks.measure import Spec, measure
from benchmarks.origin import Kind, Origin, origin, remote_origin
from benchmarks.processes import empty_store, measure_processes
from benchmarks.volume import Volume, drop_caches, measuring_volume

__all__ = ["Bench", "Setting", "interleaved", "layer_facts", "opened", "setting_of"]

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is pulled from where."""

    image: str
    layouts: tuple[Path, ...]
    remote: str = ""
    """A reference in a registry that is already there, instead of layouts."""

    @property
    def image_bytes(self) -> int:
        """Bytes of all distinct blobs."""
        sizes: dict[str, int] = {}
        for layout in self.layouts:
            sizes.update(facts_of(layout).blob_sizes)
        return sum(sizes.values())

    @property
    def image_layers(self) -> int:
        """Distinct chains; the layouts' images are prefixes of one another or have nothing in common."""
        return len({chain for layout in self.layouts for chain in facts_of(layout).chains})

    def fields(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"image": self.image, "image_bytes": self.image_bytes, "image_layers": self.image_layers}


def setting_of(image: str, layouts: Sequence[Path]) -> Setting:
    return Setting(image, tuple(layouts), "" if layouts else image)


def layer_facts(layouts: Sequence[Path]) -> tuple[LayerFacts, ...]:
    """Those of the first layout; none for a reference."""
    return facts_of(layouts[0]).layer_facts if layouts else ()


def interleaved(arms: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """``(repeat, arm)``; each repeat begins with another arm."""
    for repeat in range(repeats):
        turn = repeat % len(arms)
        for arm in (*arms[turn:], *arms[:turn]):
            yield repeat + 1, arm


class Bench:
    """A registry that serves, a volume to pull onto, and where records go."""

    def __init__(self, setting: Setting, served: Origin, volume: Volume, durability: str, seed: int) -> None:
        self.setting = setting
        self.served = served
        self.volume = volume
        self.durability = durability
        self.seed = seed

    def header(self) -> Record:
        return environment(self.volume.description, self.served.description, self.durability, self.seed)

    def spec(self, scenario: str, arm: str, pulls: int, repeat: int) -> Spec:
        return Spec(
            scenario=scenario,
            arm=arm,
            image=self.setting.image,
            references=self.served.references,
            pulls=pulls,
            repeat=repeat,
            store=str(self.volume.store),
            durability=self.durability,
            image_bytes=self.setting.image_bytes,
            image_layers=self.setting.image_layers,
            seed=self.seed + repeat,
        )

    def run(self, spec: Spec) -> list[Record]:
        """One run of threads, on an empty volume."""
        self.volume.wipe()
        return measure(spec)

    def run_processes(self, spec: Spec) -> list[Record]:
        """One run of processes, as the script of containerd's issue makes it: in the store of the last run, of which
        ``rmi`` has left nothing, and with the page cache dropped."""
        empty_store(spec.store)
        return measure_processes(spec, self.served, dropped=drop_caches())

    def compare(self, arms: Sequence[str], pulls: int, repeats: int, *, processes: bool, timeline: bool,
                emit: Callable[[Record], None]) -> None:  # fmt: skip
        for repeat, arm in interleaved(arms, repeats):
            spec = self.spec("processes" if processes else "compare", arm, pulls, repeat)
            records = self.run_processes(spec) if processes else self.run(replace(spec, timeline=timeline))
            for record in records:
                emit(record)

    def scale(self, arms: Sequence[str], pulls: Sequence[int], largest: Mapping[str, int], repeats: int,
              scenario: str, emit: Callable[[Record], None], *, processes: bool = False) -> None:  # fmt: skip
        """Every arm over growing numbers of pulls; an arm stops at its ``largest``."""
        run = self.run_processes if processes else self.run
        for repeat, arm in interleaved(arms, repeats):
            for count in pulls:
                if count <= largest.get(arm, count):
                    for record in run(self.spec(scenario, arm, count, repeat)):
                        emit(record)


@contextlib.contextmanager
def opened(setting: Setting, durability: str, kind: Kind = "auto", seed: int | None = None) -> Iterator[Bench]:
    """Starts the registry and makes the volume for the block. ``seed``: of the arms' random sleeps; None draws one."""
    with contextlib.ExitStack() as stack:
        if setting.remote:
            serving = remote_origin(setting.remote)
        else:
            serving = stack.enter_context(origin(setting.layouts, kind))
        drawn = random.randrange(1 << 32) if seed is None else seed
        yield Bench(setting, serving, stack.enter_context(measuring_volume()), durability, drawn)
