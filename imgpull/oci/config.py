"""ImageConfig: how a container starts, and the diff IDs of its layers (image-spec config.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imgpull.errors import InvalidImageError, LimitExceededError
from imgpull.limits import Limits
from imgpull.oci.digest import Digest
from imgpull.oci.manifest import Manifest
from imgpull.oci.platform import Platform
from imgpull.oci.strict_json import FrozenMap, array, boolean, loads, mapping, mapping_of_text, shown, text, texts

__all__ = ["History", "ImageConfig", "check_layers"]

_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class History:
    """One step of the build. ``empty_layer``: it made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The config, as untrusted data: nothing here has been checked against this machine.

    A ``user`` may overflow a uid, a volume may read ``/../../etc``; whoever runs the image judges these.
    """

    raw: bytes = field(repr=False)
    platform: Platform
    diff_ids: tuple[Digest, ...]
    """Digests of the layers' uncompressed tars, bottom first."""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    workdir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=FrozenMap)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    created: str | None = None
    """RFC 3339, as the image says it."""
    author: str = ""
    history: tuple[History, ...] = ()

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        """Reads a config. Raises InvalidImageError; UnsupportedMediaTypeError for an unknown digest algorithm."""
        what = "image config"
        members = loads(raw, what)
        if not isinstance(members, dict):
            raise InvalidImageError(f"{what} must be a JSON object, not {shown(members)}")
        run = mapping(members, "config", what, default={})
        where = f"{what}: config"
        return cls(
            raw=raw,
            platform=Platform.from_json(members, what),
            diff_ids=_diff_ids(mapping(members, "rootfs", what), f"{what}: rootfs"),
            env=texts(run, "Env", where),
            entrypoint=_texts_or_none(run, "Entrypoint", where),
            cmd=_texts_or_none(run, "Cmd", where),
            workdir=text(run, "WorkingDir", where, default=""),
            user=text(run, "User", where, default=""),
            labels=mapping_of_text(run, "Labels", where),
            exposed_ports=tuple(mapping(run, "ExposedPorts", where, default={})),
            volumes=tuple(mapping(run, "Volumes", where, default={})),
            stop_signal=text(run, "StopSignal", where, default=""),
            created=text(members, "created", what, default="") or None,
            author=text(members, "author", what, default=""),
            history=tuple(_history(step, what) for step in array(members, "history", what, default=[])),
        )


def check_layers(manifest: Manifest, config: ImageConfig, limits: Limits = _DEFAULT_LIMITS) -> None:
    """Checks that every layer has its diff ID. No layer at all is an image too: an empty root.

    Raises InvalidImageError where the numbers differ, LimitExceededError above ``limits.layers``.
    """
    layers, diff_ids = len(manifest.layers), len(config.diff_ids)
    if layers != diff_ids:
        raise InvalidImageError(
            f"manifest {manifest.digest} has {layers} layers, its config {manifest.config.digest} {diff_ids} diff_ids",
            digest=manifest.digest,
        )
    if layers > limits.layers:
        raise LimitExceededError(
            f"manifest {manifest.digest} has {layers} layers; at most {limits.layers} can be stacked", limit="layers"
        )


def _diff_ids(rootfs: Mapping[str, object], what: str) -> tuple[Digest, ...]:
    kind = text(rootfs, "type", what, default="")
    if kind not in ("", "layers"):
        raise InvalidImageError(f'{what}.type must be "layers", not {shown(kind)}')
    return tuple(Digest(diff_id) for diff_id in texts(rootfs, "diff_ids", what))


def _texts_or_none(obj: Mapping[str, object], name: str, what: str) -> tuple[str, ...] | None:
    # null and [] differ: an empty entrypoint takes back the one of the base image.
    return None if obj.get(name) is None else texts(obj, name, what)


def _history(step: object, what: str) -> History:
    if not isinstance(step, dict):
        raise InvalidImageError(f"{what}: history must be an array of objects, not {shown(step)}")
    where = f"{what}: history"
    return History(
        created=text(step, "created", where, default=""),
        created_by=text(step, "created_by", where, default=""),
        author=text(step, "author", where, default=""),
        comment=text(step, "comment", where, default=""),
        empty_layer=boolean(step, "empty_layer", where),
    )
