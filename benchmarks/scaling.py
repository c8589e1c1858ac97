"""``scale``: how the cost grows along one axis at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, get_args

from benchmarks.derived import lowest_layers, siblings
from benchmarks.processes import PROCESS_ARMS
from benchmarks.scenarios import Bench, Record, Setting

__all__ = ["AXES", "Axis", "Scale", "ScaleError"]

Axis = Literal["pulls", "layers", "images", "processes"]
AXES: tuple[Axis, ...] = get_args(Axis)

CALLERS = 5
"""On the axes of layers and images: how many pull each image at once where nothing else is said, so that there is
something to suppress."""
_LARGEST: Mapping[str, int] = {"convoy": 20, "backoff": 100}
"""Pulls past which an old arm takes minutes and shows nothing new."""


class ScaleError(Exception):
    """An axis can't be run with this image; the message says why."""


class Scale:
    """One image and some arms. ``open_bench`` makes the registry and the volume for a setting."""

    def __init__(
        self,
        setting: Setting,
        open_bench: Callable[[Setting], AbstractContextManager[Bench]],
        arms: Sequence[str],
        repeats: int,
        emit: Callable[[Record], None],
        callers: int = CALLERS,
    ) -> None:
        """``callers``: how many pull each image, on the axes of layers and images."""
        self._setting = setting
        self._open_bench = open_bench
        self._arms = arms
        self._repeats = repeats
        self._emit = emit
        self._callers = callers
        self._headed = False

    def run(self, axis: Axis, counts: Sequence[int]) -> None:
        """Every count of the axis in every arm. Raises ScaleError."""
        if axis in ("pulls", "processes"):
            self._bench(self._setting, axis, counts)
            return
        if not self._setting.layouts:
            raise ScaleError(f"--{axis} makes images of a built one, and {self._setting.image} is a reference")
        with tempfile.TemporaryDirectory(prefix="imgpull-derived-") as folder:
            for count in counts:
                layouts = self._derived(axis, count, Path(folder) / str(count))
                pulls = [self._callers * len(layouts)]
                if axis == "images":
                    pulls.insert(0, len(layouts))  # each image once: all that there is to fetch and to unpack
                self._bench(Setting(self._setting.image, tuple(layouts)), axis, pulls)

    def _derived(self, axis: Axis, count: int, out: Path) -> list[Path]:
        (layout,) = self._setting.layouts
        if axis == "images":
            return siblings(layout, count, out)
        try:
            return [lowest_layers(layout, count, out)]
        except ValueError as error:
            raise ScaleError(str(error)) from None

    def _bench(self, setting: Setting, axis: Axis, pulls: Sequence[int]) -> None:
        processes = axis == "processes"
        arms = [arm for arm in self._arms if arm in PROCESS_ARMS] if processes else self._arms
        with self._open_bench(setting) as bench:
            if not self._headed:
                self._emit(bench.header())
                self._headed = True
            bench.scale(arms, pulls, _LARGEST, self._repeats, f"scale-{axis}", self._emit, processes=processes)
