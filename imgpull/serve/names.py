"""The names under which the entries of a layout's ``index.json`` are served (image-spec 1.1, image-layout.md).

An entry has one name at most (``org.opencontainers.image.ref.name``; containerd adds its own annotation), and tools
write three kinds of them:

=============================== =============================================================
name                            answers as
=============================== =============================================================
``docker.io/library/redis:7.2`` ``docker.io/library/redis:7.2`` and ``library/redis:7.2``
``redis:7.2``                   ``redis:7.2``
``7.2`` (skopeo, umoci)         ``<directory>:7.2``, and ``7.2:latest``
none                            ``<directory>``, by digest; ``latest`` when it is the only entry
=============================== =============================================================

Where two entries want one name, a name that was written out wins over one that was derived. Several entries with one
name and different platforms (a store that holds an image for two of them) are served as an index of them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imgpull import oci
from imgpull.errors import ImageError
from imgpull.oci import media_types, strict_json

__all__ = ["Names", "is_repository", "is_tag", "read_names"]

_log = logging.getLogger("imgpull.serve")

_NAME_ANNOTATIONS = ("org.opencontainers.image.ref.name", "io.containerd.image.name")

# Distribution specification 1.1, "Pulling manifests": <name> and <reference>.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)

_WRITTEN, _DOCKER_SHORT, _SHORT, _WORD = range(4)
"""How a name was come by; the lower wins."""


def is_repository(text: str) -> bool:
    return len(text) <= 255 and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Names:
    """What one version of ``index.json`` says."""

    repositories: dict[str, dict[str, oci.Digest]] = field(default_factory=dict)
    """Repository name → tag → digest."""
    media_types: dict[oci.Digest, str] = field(default_factory=dict)
    composed: dict[oci.Digest, bytes] = field(default_factory=dict)
    """Indexes that are no file: one name, several platforms."""


def read_names(raw: bytes, own_name: str) -> Names:
    """The names in the ``index.json`` that reads ``raw``; ``own_name`` is the repository of what has none.

    Raises InvalidImageError when it is no index. An entry that is no descriptor we read (another digest algorithm, a
    media type that could break out of a header) is not served, and the others are.
    """
    what = "index.json"
    document = strict_json.loads(raw, what)
    # A document that is no object fails as one whose "manifests" is missing: the same sentence helps.
    members = document if isinstance(document, dict) else {}
    entries = list(_readable(strict_json.array(members, "manifests", what), what))
    names = Names(media_types={entry.digest: entry.media_type for entry in entries})
    for (repository, tag), group in _claimed(entries, own_name).items():
        tags = names.repositories.setdefault(repository, {})
        if tag is not None:
            tags[tag] = _target(group, names)
    return names


def _readable(items: Iterable[object], what: str) -> Iterator[oci.Descriptor]:
    for item in items:
        try:
            yield oci.Descriptor.from_json(item, what)
        except ImageError as error:
            _log.info("an entry is not served: %s", error)


def _claimed(entries: Sequence[oci.Descriptor], own_name: str) -> dict[tuple[str, str | None], list[oci.Descriptor]]:
    """(repository, tag) → the entries it stands for; the tag is None for a repository with digests alone."""
    groups: dict[str, list[oci.Descriptor]] = {}
    claims: list[tuple[int, tuple[str, str | None], str]] = []
    for entry in entries:
        texts = [entry.annotations[name] for name in _NAME_ANNOTATIONS if entry.annotations.get(name)]
        for text in dict.fromkeys(texts or [""]):
            groups.setdefault(text, []).append(entry)
    for text in groups:
        alone = len(entries) == 1
        claims += [(rank, key, text) for rank, key in _answers(text, own_name, alone)]
    claims.sort(key=lambda claim: claim[0])  # stable: of two with one rank, the first in the index
    claimed: dict[tuple[str, str | None], list[oci.Descriptor]] = {}
    for _, (repository, tag), text in claims:
        if is_repository(repository) and (tag is None or is_tag(tag)):
            claimed.setdefault((repository, tag), groups[text])
    return claimed


def _answers(text: str, own_name: str, alone: bool) -> Iterator[tuple[int, tuple[str, str | None]]]:
    """What an entry called ``text`` answers as, with the rank of each name; the table in the module's docstring."""
    named, _, digest = text.partition("@")
    head, slash, last = named.rpartition("/")
    last, _, tag = last.partition(":")
    path = head + slash + last
    wanted = tag or (None if digest else "latest")
    if not text:
        yield _WORD, (own_name, "latest" if alone else None)
    elif named == last and not digest:
        yield _WRITTEN, (own_name, last)
        yield _WORD, (path, wanted)
    else:
        yield _WRITTEN, (path, wanted)
        domain, _, rest = path.partition("/")
        if rest and _is_domain(domain):
            yield (_DOCKER_SHORT if domain == "docker.io" else _SHORT), (rest, wanted)


def _is_domain(component: str) -> bool:
    """As distribution/reference tells a registry from the first part of a path."""
    return component == "localhost" or any(mark in component for mark in ".:") or component.lower() != component


def _target(group: Sequence[oci.Descriptor], names: Names) -> oci.Digest:
    """The digest a tag stands for. Entries for several platforms are composed to one index."""
    members = {entry.platform.normalised: entry for entry in reversed(group) if entry.platform is not None}
    if len(members) < 2 or any(entry.platform is None for entry in group):
        return group[0].digest
    raw = _composed(reversed(members.values()))
    digest = oci.Digest.of_bytes(raw)
    names.composed[digest] = raw
    names.media_types[digest] = media_types.OCI_INDEX
    return digest


def _composed(entries: Iterable[oci.Descriptor]) -> bytes:
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [
            {
                "mediaType": entry.media_type,
                "digest": entry.digest,
                "size": entry.size_bytes,
                "platform": _platform(entry.platform),
            }
            for entry in entries
        ],
    }
    return json.dumps(index, separators=(",", ":")).encode()


def _platform(platform: oci.Platform | None) -> Mapping[str, object]:
    if platform is None:
        return {}
    members = {
        "architecture": platform.architecture,
        "os": platform.os,
        "variant": platform.variant,
        "os.version": platform.os_version,
        "os.features": list(platform.os_features),
    }
    return {name: value for name, value in members.items() if value}
