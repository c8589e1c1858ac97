"""Images as the unpacker meets them, made of random layers, and a source that hands out their bytes when told to."""

from __future__ import annotations

import hashlib
import io
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fakes.archives import C, Chain, D, F, H, P, S, archive
from fakes.serial_model import Item
from fakes.threads import DEADLINE_SECONDS
from imgpull.errors import UnpackError
from imgpull.locking import Cancellation
from imgpull.oci import Descriptor, Digest, chain_ids
from imgpull.store import Waiting
from imgpull.store.images import Layer

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
NAMES = ("a", "b", "c")
TARGETS = ("a", "b", "/c", "..", "../a", "/a/b", "b/c", "../../c", "dne/../a", ".", "/", "c/../../b")


def encode(item: Item) -> bytes:
    """The tar entry of an item of the model."""
    if item.kind == "f":
        return F(item.name, str(item.value).encode())
    if item.kind == "d":
        return D(item.name, int(item.value))
    if item.kind in "sh":
        return (S if item.kind == "s" else H)(item.name, str(item.value))
    if item.kind == "o":
        return F(f"{item.name}/.wh..wh..opq".lstrip("/"))
    parent, _, name = item.name.rpartition("/")
    return F(f"{parent}/.wh.{name}".lstrip("/"))


def random_name(chooser: random.Random, longest: int = 3) -> str:
    return "/".join(chooser.choice(NAMES) for _ in range(chooser.randint(1, longest)))


def random_entry(chooser: random.Random, *, whiteouts: bool = True) -> bytes:
    """Of every kind, with owners, times and attributes; few names, so that most entries meet another."""
    name, mtime, uid = random_name(chooser), chooser.randrange(10**6), chooser.choice((0, 0, 1000))
    match chooser.choice("ffffddssshhhpcwwwoo" if whiteouts else "ffffddssshhpc"):
        case "f":
            xattrs = {"user.x": b"1"} if chooser.random() < 0.1 else None
            mode = chooser.choice((0o644, 0o4755, 0))
            return F(name, bytes(chooser.randrange(3)), mode=mode, mtime=mtime, uid=uid, xattrs=xattrs)
        case "d":
            return D(name, chooser.choice((0o700, 0o755, 0o2775)), mtime=mtime, uid=uid)
        case "s":
            return S(name, chooser.choice(TARGETS), mtime=mtime, uid=uid)
        case "h":
            return H(name, random_name(chooser))
        case "p":
            return P(name, mtime=mtime)
        case "c":
            return C(name, 1, chooser.choice((3, 5)), mtime=mtime)
        case "w":
            return encode(Item("w", name))
        case _:
            return encode(Item("o", chooser.choice((name, name, ""))))


@dataclass(frozen=True)
class Image:
    """Layers as the unpacker takes them, and their bytes."""

    layers: tuple[Layer, ...]
    descriptors: tuple[Descriptor, ...]
    blobs: dict[Digest, bytes]


def image(*tars: bytes) -> Image:
    """Of uncompressed layers, bottom first."""
    digests = [Digest(f"sha256:{hashlib.sha256(tar).hexdigest()}") for tar in tars]
    layers = tuple(
        Layer(digest, MEDIA_TYPE, len(tar), digest, chain_id)
        for digest, tar, chain_id in zip(digests, tars, chain_ids(digests), strict=True)
    )
    descriptors = tuple(Descriptor(MEDIA_TYPE, layer.digest, layer.size_bytes) for layer in layers)
    return Image(layers, descriptors, dict(zip(digests, tars, strict=True)))


def random_image(chooser: random.Random, mark: str, place: Path, layers: int = 4) -> Image:
    """None of its layers is refused. ``mark`` makes them unlike those of every other image; ``place`` is scratch."""
    chain = Chain(place)
    tars: list[bytes] = []
    while len(tars) < layers:
        entries = [random_entry(chooser, whiteouts=bool(tars)) for _ in range(chooser.randint(1, 9))]
        tar = archive(*entries, F(f"mark-{len(tars)}", mark.encode()))
        with suppress(UnpackError):
            chain.apply_tar(tar)
            tars.append(tar)
    return image(*tars)


@dataclass
class GatedSource:
    """A LayerSource that keeps each blob back until :meth:`open_gate`; those in ``at_once`` come unasked."""

    blobs: dict[Digest, bytes]
    gated: Sequence[Digest] = ()
    opened: list[Digest] = field(default_factory=list)
    """Who was asked for, in order."""
    error: dict[Digest, BaseException] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._gates = {digest: threading.Event() for digest in self.gated}

    def open_gate(self, *digests: Digest) -> None:
        for digest in digests:
            self._gates[digest].set()

    @contextmanager
    def open(self, digest: Digest, cancel: Cancellation, waiting: Waiting) -> Iterator[io.BytesIO]:
        self.opened.append(digest)
        if digest in self._gates:
            with waiting():
                _wait(self._gates[digest], cancel)
        if digest in self.error:
            raise self.error[digest]
        yield io.BytesIO(self.blobs[digest])


class SlowReader:
    """Gives all but the last bytes, then waits at a gate as a reader that follows a transfer does."""

    def __init__(self, data: bytes, gate: threading.Event, cancel: Cancellation, waiting: Waiting) -> None:
        self._pieces = [data[:-1024], data[-1024:]]
        self._gate, self._cancel, self._waiting = gate, cancel, waiting
        self.blocked = threading.Event()

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._pieces:
            return 0
        if len(self._pieces) == 1:
            with self._waiting():
                self.blocked.set()
                _wait(self._gate, self._cancel)
        piece = self._pieces.pop(0)
        buffer[: len(piece)] = piece
        return len(piece)


def _wait(gate: threading.Event, cancel: Cancellation) -> None:
    woken = threading.Event()

    def watch() -> None:
        gate.wait(DEADLINE_SECONDS)
        woken.set()

    threading.Thread(target=watch, name="gate", daemon=True).start()
    forget = cancel.add_callback(woken.set)
    woken.wait()
    forget()
    cancel.raise_if_cancelled()
    assert gate.is_set(), "the gate stayed shut"
