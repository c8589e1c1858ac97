"""A store and a puller that do what the test tells them, behind the real command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

import imgpull
from imgpull.cli import main
from imgpull.errors import ImageNotFoundError
from imgpull.events import EventSink
from imgpull.locking import Cancellation
from imgpull.oci import Digest, ImageConfig, Platform
from imgpull.reference import Reference
from imgpull.store.images import Image, Layer

Script = Callable[[EventSink, "Call"], Image | BaseException | None]
"""What a pull does: sends events and gives its image or its failure; None leaves it running."""


def digest(digit: str) -> Digest:
    return Digest.of("sha256", digit * 64)


def make_image(reference: str, layers: str = "ab", size_bytes: int = 45_100_000) -> Image:
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["PATH=/bin", "A=b"], "Cmd": ["redis server"], "Labels": {"who": "me\x1b[31m"}},
        "rootfs": {"type": "layers", "diff_ids": [digest(digit) for digit in layers]},
    }
    return Image(
        reference=str(Reference.parse(reference)),
        digest=digest("1"),
        manifest_digest=digest("2"),
        platform=Platform.parse("linux/amd64"),
        config=ImageConfig.parse(json.dumps(config).encode()),
        layers=tuple(Layer(digest(digit), "layer", 1000, digest(digit), digest(digit)) for digit in layers),
        chain_id=digest(layers[-1]),
        size_bytes=size_bytes,
        unpacked=True,
    )


@dataclass
class Call:
    """One submitted pull."""

    reference: str
    arguments: dict[str, Any]
    future: Future[Image] = field(default_factory=Future)

    @property
    def cancel(self) -> Cancellation:
        cancel: Cancellation = self.arguments["cancel"]
        return cancel


@dataclass
class World:
    """What the fakes do, and what was asked of them."""

    scripts: dict[str, Script] = field(default_factory=dict)
    images: list[Image] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    store_arguments: list[tuple[Any, ...]] = field(default_factory=list)
    puller_arguments: list[dict[str, Any]] = field(default_factory=list)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    open: int = 0

    def pulls(self, reference: str, script: Script) -> None:
        self.scripts[str(Reference.parse(reference))] = script

    def gives(self, *references: str) -> None:
        """These images can be pulled."""
        for reference in references:
            self.pulls(reference, lambda say, call: make_image(call.reference))

    def fails(self, reference: str, error: BaseException) -> None:
        self.pulls(reference, lambda say, call: error)

    @property
    def pulled(self) -> list[str]:
        return [call.reference for call in self.calls]


class FakeImages:
    def __init__(self, world: World) -> None:
        self._world = world

    def list(self) -> Sequence[Image]:
        return self._world.images

    def get(self, reference: str, platform: Platform | None = None) -> Image:
        self._world.done.append(("get", reference, platform))
        for image in self._world.images:
            if image.reference == str(Reference.parse(reference)):
                return image
        raise ImageNotFoundError(f"no image {reference}; pull it first")

    def remove(self, reference: str, platform: Platform | None = None) -> None:
        self._world.images.remove(self.get(reference, platform))

    def tag(self, reference: str, new: str) -> None:
        self._world.done.append(("tag", reference, new))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    world = World()

    class FakeStore:
        def __init__(self, root: Path | None = None, *, durability: str = "full", read_only: bool = False) -> None:
            world.store_arguments.append((root, durability, read_only))
            self.root = tmp_path
            self.images = FakeImages(world)

        def unpack(self, image: Image, target: Path) -> None:
            world.done.append(("unpack", image.reference, target))

        def __enter__(self) -> Self:
            world.open += 1
            return self

        def __exit__(self, *_: object) -> None:
            world.open -= 1

    class FakePuller:
        def __init__(self, store: FakeStore, **arguments: Any) -> None:
            world.puller_arguments.append(arguments)

        def submit(self, reference: str, *, progress: EventSink, **arguments: Any) -> Future[Image]:
            call = Call(reference, arguments)
            world.calls.append(call)
            result = world.scripts[reference](progress, call)
            if isinstance(result, BaseException):
                call.future.set_exception(result)
            elif result is not None:
                call.future.set_result(result)
            return call.future

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            assert all(call.future.done() for call in world.calls), "the puller was closed while pulls were running"

    monkeypatch.setattr(imgpull, "Store", FakeStore, raising=False)
    monkeypatch.setattr(imgpull, "Puller", FakePuller, raising=False)
    return world


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr, without its prefix."""
        assert self.err.startswith("imgpull: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("imgpull: error: ").rstrip("\n")


Run = Callable[..., Ran]


@pytest.fixture
def run(world: World, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command in this process; what ``-v`` did to the log is undone."""
    log = logging.getLogger("imgpull")
    level, handlers = log.level, log.handlers[:]

    def run(*arguments: str) -> Ran:
        code = main(arguments)
        assert world.open == 0, "the store was left open"
        return Ran(code, *capsys.readouterr())

    yield run
    log.setLevel(level)
    log.handlers[:] = handlers
