"""Peers that are programs: they start, pull and end. With several pulls, as many processes share what they share."""

from __future__ import annotations

import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.layout import LayerFacts
from benchmarks.measure import MeasureError, Spec, measure
from benchmarks.peers.peer import Command, PeerError, Place, Ready, missing_program

__all__ = ["Crane", "CurlAndTar", "Imgpull", "ImgpullLibrary", "ImgpullThreads", "Oras", "Podman", "SkopeoAndUmoci"]

_COSTS = ("wall_seconds", "user_seconds", "system_seconds", "max_rss_bytes", "ended_at")
_TAR = "tar -xp --same-owner --numeric-owner --xattrs --xattrs-include=* --keep-directory-symlink"
"""Links to directories are kept: an entry below ``lib -> usr/lib`` must land in ``usr/lib``."""


class _Program(ABC):
    """A peer that is told by the commands of one pull."""

    programs: ClassVar[tuple[str, ...]]

    def absent(self, place: Place) -> str:
        return missing_program(self.programs)

    @contextmanager
    def ready(self, place: Place) -> Iterator[Ready]:
        temporary = place.directory / "tmp"  # on the volume that is measured, like all else
        temporary.mkdir()
        lanes = [self.lane(place, number) for number in range(place.pulls)]
        yield Ready(lanes, environment={"TMPDIR": str(temporary)})

    @abstractmethod
    def lane(self, place: Place, number: int) -> Sequence[Command]:
        """The commands of pull ``number``, counted from 0."""


@dataclass(frozen=True)
class Imgpull(_Program):
    """The command line as users have it, its start included; several processes share one store."""

    name: str
    durability: str
    programs = ()

    @property
    def note(self) -> str:
        return f"a process; durability {self.durability}"

    def lane(self, place: Place, number: int) -> Sequence[Command]:
        options = ["--store", str(place.directory / "store"), "--durability", self.durability, "-q"]
        return [[sys.executable, "-m", "imgpull", *options, "pull", place.reference]]


class ImgpullThreads:
    """All pulls in one process, as a daemon's callers would make them."""

    name = "imgpull-threads"
    programs = ()
    note = "one process, its start included; durability full"

    def absent(self, place: Place) -> str:
        return "it is imgpull when there is one pull" if place.pulls == 1 else ""

    @contextmanager
    def ready(self, place: Place) -> Iterator[Ready]:
        store = str(place.directory / "store")
        command = [sys.executable, "-m", "benchmarks.peers.threads", store, place.reference, str(place.pulls)]
        yield Ready([[command]])


class ImgpullLibrary:
    """The call alone, in a process that has imported everything; several are callers of one process."""

    name = "imgpull-library"
    programs = ()
    note = "the call alone, everything imported before; durability none"

    def absent(self, place: Place) -> str:
        return ""

    @contextmanager
    def ready(self, place: Place) -> Iterator[Ready]:
        spec = Spec(
            scenario="peers", arm="suppression", image=place.image, references=(place.reference,),
            pulls=place.pulls, repeat=0, store=str(place.directory / "store"), durability="none",
        )  # fmt: skip

        def cost(timeout_seconds: float) -> Mapping[str, Any]:
            try:
                record = measure(spec, timeout_seconds)[0]
            except MeasureError as error:
                raise PeerError(str(error)) from None
            return {key: record[key] for key in _COSTS}

        yield Ready((), own_cost=cost)


class Podman(_Program):
    name = "podman"
    programs = ("podman",)
    note = ""

    def lane(self, place: Place, number: int) -> Sequence[Command]:
        root, run = place.directory / "root", place.directory / "run"
        options = ["--root", str(root), "--runroot", str(run), "--storage-driver", "overlay"]
        return [["podman", *options, "pull", "-q", "--tls-verify=false", f"docker://{place.reference}"]]


class SkopeoAndUmoci(_Program):
    """They have no store to share: each pull is a layout and a bundle of its own."""

    name = "skopeo+umoci"
    programs = ("skopeo", "umoci")
    note = ""

    def lane(self, place: Place, number: int) -> Sequence[Command]:
        layout, bundle = place.directory / f"layout-{number}", place.directory / f"bundle-{number}"
        fetch = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
        return [
            [*fetch, f"docker://{place.reference}", f"oci:{layout}:image"],
            ["umoci", "unpack", "--image", f"{layout}:image", str(bundle)],
        ]


class CurlAndTar(_Program):
    """What the parts cost when nobody puts them together: one layer after another, through pipes."""

    name = "curl+tar"
    programs = ("curl", "sha256sum", "tar")
    note = "layer by layer; whiteouts are not applied, diff IDs not verified"

    def absent(self, place: Place) -> str:
        if not place.layers:
            return "it is told the layers of built images only"
        return missing_program([*self.programs, *sorted({_decompressor(layer) for layer in place.layers})])

    def lane(self, place: Place, number: int) -> Sequence[Command]:
        root = place.directory / f"rootfs-{number}"
        address, _, name = place.reference.partition("/")
        repository = name.rpartition(":")[0]
        lines = ["set -e", f"mkdir {shlex.quote(str(root))}", f"cd {shlex.quote(str(place.directory))}"]
        for layer in place.layers:
            blob = f"blob-{number}-{layer.digest.removeprefix('sha256:')}"
            lines += [
                f"curl -fsS -o {blob} http://{address}/v2/{repository}/blobs/{layer.digest}",
                f"echo {layer.digest.removeprefix('sha256:')}  {blob} | sha256sum -c --status",
                f"{_decompressor(layer)} -dc <{blob} | {_TAR} -C {shlex.quote(str(root))}",
            ]
        return [["bash", "-o", "pipefail", "-c", "\n".join(lines)]]


def _decompressor(layer: LayerFacts) -> str:
    if layer.media_type.endswith("zstd"):
        return "zstd"
    return next((name for name in ("igzip", "pigz") if shutil.which(name)), "gzip")


class Crane(_Program):
    name = "crane"
    programs = ("crane", "tar")
    note = "crane export into GNU tar; nothing is stored as blobs"

    def lane(self, place: Place, number: int) -> Sequence[Command]:
        root = place.directory / f"rootfs-{number}"
        quoted = shlex.quote(str(root))
        script = f"mkdir {quoted} && crane export --insecure {shlex.quote(place.reference)} - | {_TAR} -C {quoted}"
        return [["bash", "-o", "pipefail", "-c", script]]


class Oras(_Program):
    name = "oras"
    programs = ("oras",)
    note = "fetches only, unpacks nothing"

    def lane(self, place: Place, number: int) -> Sequence[Command]:
        target = f"{place.directory / f'layout-{number}'}:image"
        return [["oras", "copy", "--from-plain-http", "--to-oci-layout", place.reference, target]]
