"""Image records: which reference means which image, by (reference, platform)."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeVar

from imgpull.errors import ContentNotFoundError, ImageNotFoundError, InvalidReferenceError
from imgpull.oci import Descriptor, Digest, ImageConfig, Platform
from imgpull.reference import Reference
from imgpull.store.blobs import Blobs
from imgpull.store.database import Connection, Database, Row
from imgpull.store.ingest import utc_now
from imgpull.store.layout import Layout
from imgpull.store.platforms import platform_from_json, platform_to_json

__all__ = ["Content", "Image", "Images", "Layer"]

T = TypeVar("T")

Content = Literal["full", "lazy", "drop"]
"""Which of an image's blobs are kept: every one · none whose layer was unpacked already · none once unpacked."""

_COLUMNS = (
    "reference, platform, platform_fields, digest, manifest_digest, config, layers, chain_id, size_bytes, content, "
    "snapshotter, unpacked, created_at"
)
_ROWS = f"SELECT {_COLUMNS} FROM images WHERE reference = ? ORDER BY platform"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image; ``chain_id`` names the file system with this layer on top."""

    digest: Digest
    media_type: str
    size_bytes: int
    """Of the blob, compressed."""
    diff_id: Digest
    chain_id: Digest


@dataclass(frozen=True, slots=True)
class Image:
    """One image for one platform, as it was pulled or loaded."""

    reference: str
    """In full: ``docker.io/library/redis:7.2``."""
    digest: Digest
    """What the reference resolved to: an index, or the manifest itself."""
    manifest_digest: Digest
    """The manifest of this platform."""
    platform: Platform
    config: ImageConfig
    layers: tuple[Layer, ...]
    """Bottom first."""
    chain_id: Digest
    """The snapshot of all layers: for ``store.snapshots.view``."""
    size_bytes: int
    """Of manifest, config and layers, compressed; a layer that appears twice counts once."""
    content: Content = "full"
    snapshotter: str = "overlay"
    unpacked: bool = False
    """Whether the snapshot was made, too."""
    created_at: datetime = field(default_factory=utc_now)
    """When this record was made (the config says when the image was built)."""

    @property
    def config_digest(self) -> Digest:
        return Digest.of_bytes(self.config.raw, self.manifest_digest.algorithm)

    @property
    def blobs(self) -> frozenset[Digest]:
        """Every blob this image consists of."""
        return self._documents | {layer.digest for layer in self.layers}

    @property
    def kept(self) -> frozenset[Digest]:
        """The blobs that nobody drops or collects while this record stands."""
        return self._documents if self.content == "drop" and self.unpacked else self.blobs

    @property
    def promised(self) -> frozenset[Digest]:
        """The blobs that are here while this record stands; to "lazy" those of its layers may never have come."""
        return self._documents if self.content != "full" and self.unpacked else self.blobs

    @property
    def _documents(self) -> frozenset[Digest]:
        return frozenset((self.digest, self.manifest_digest, self.config_digest))


class Images:
    """The image records of one store, for all threads. Made by :class:`~imgpull.Store`, as ``store.images``.

    References may be given as text, in any form a user writes. Errors: ImageNotFoundError, InvalidReferenceError,
    StoreFullError, StoreError.
    """

    def __init__(self, database: Database, layout: Layout, blobs: Blobs) -> None:
        self._database = database
        self._layout = layout
        self._blobs = blobs

    def get(self, reference: str | Reference, platform: Platform | str | None = None) -> Image:
        """The image of ``reference`` for ``platform``; without one, for the platform that suits this host best, or the
        only one there is."""
        name = _name(reference)
        rows = self._database.query(_ROWS, (name,))
        wanted = Platform.host() if platform is None else _platform(platform)
        exact = [row for row in rows if row["platform"] == _key(wanted)]
        if exact:
            return _image(exact[0])
        if platform is None and rows:
            return _image(rows[0] if len(rows) == 1 else _preferred(name, wanted, rows))
        raise _not_found(name, rows, None if platform is None else wanted)

    def list(self) -> builtins.list[Image]:
        """Every record, by reference and platform."""
        return [_image(row) for row in self._database.query(f"SELECT {_COLUMNS} FROM images ORDER BY 1, 2")]

    def put(self, image: Image) -> None:
        """Record ``image``; its reference and platform no longer mean what they meant before.

        Raises ContentNotFoundError where a blob that the record promises is not here: it was removed since the caller
        saw it, and has to be fetched again."""
        self._database.check_writable()
        recorded = replace(image, reference=_name(image.reference))

        self._change(lambda connection: self._put(connection, recorded))

    def tag(self, reference: str | Reference, new: str | Reference, platform: Platform | str | None = None) -> None:
        """Let ``new`` mean what ``reference`` means: for every platform that is here, or for one.

        Raises as :meth:`put`."""
        self._database.check_writable()
        target = new if isinstance(new, Reference) else Reference.parse(new)
        if target.digest is not None:
            raise InvalidReferenceError(f"{target} names a digest: a tag is given a name such as {target.name}:latest")
        name = _name(reference)

        def put_all(connection: Connection) -> None:
            for image in _selected(connection, name, platform):
                self._put(connection, replace(image, reference=str(target)))

        self._change(put_all)

    def remove(self, reference: str | Reference, platform: Platform | str | None = None) -> builtins.list[Image]:
        """Forget ``reference``, for every platform or for one, and return what it meant. Blobs and snapshots stay until
        they are collected."""
        self._database.check_writable()
        name = _name(reference)

        def remove_all(connection: Connection) -> builtins.list[Image]:
            found = _selected(connection, name, platform)
            for image in found:
                _delete(connection, image.reference, _key(image.platform))
            return found

        return self._change(remove_all)

    def _put(self, connection: Connection, image: Image) -> None:
        # Looked at in the write, where ContentStore.drop decides too: what is here now is kept by this record.
        for digest in sorted(image.promised):
            if digest not in self._blobs:
                raise ContentNotFoundError(f"{image.reference} needs the blob {digest}, which went: pull again")
        _put(connection, image)

    def _change(self, do: Callable[[Connection], T]) -> T:
        def change(connection: Connection) -> T:
            done = do(connection)
            connection.execute("UPDATE layout SET generation = generation + 1")
            return done

        done = self._database.write(change)
        self._layout.refresh()
        return done


def _selected(connection: Connection, name: str, platform: Platform | str | None) -> list[Image]:
    rows = connection.execute(_ROWS, (name,)).fetchall()
    wanted = None if platform is None else _platform(platform)
    selected = [row for row in rows if wanted is None or row["platform"] == _key(wanted)]
    if not selected:
        raise _not_found(name, rows, wanted)
    return [_image(row) for row in selected]


def _name(reference: str | Reference) -> str:
    return str(reference if isinstance(reference, Reference) else Reference.parse(reference))


def _platform(platform: Platform | str) -> Platform:
    return platform if isinstance(platform, Platform) else Platform.parse(platform)


def _key(platform: Platform) -> str:
    return str(platform.normalised)


def _preferred(name: str, host: Platform, rows: list[Row]) -> Row:
    by_digest = {row["manifest_digest"]: row for row in rows}
    entries = (
        Descriptor(
            media_type="",
            digest=Digest(row["manifest_digest"]),
            size_bytes=0,
            platform=platform_from_json(row["platform_fields"]),
        )
        for row in rows
    )
    ranked = host.ranked(entries)
    if not ranked:
        raise _not_found(name, rows, host)
    return by_digest[ranked[0].digest]


def _not_found(name: str, rows: list[Row], platform: Platform | None) -> ImageNotFoundError:
    if not rows:
        return ImageNotFoundError(f"the image {name} is not in the store: pull it first")
    here = ", ".join(row["platform"] for row in rows)
    return ImageNotFoundError(f"the image {name} is not in the store for {platform}, only for {here}: pull it for that")


def _delete(connection: Connection, reference: str, platform: str) -> None:
    connection.execute("DELETE FROM images WHERE reference = ? AND platform = ?", (reference, platform))
    connection.execute("DELETE FROM image_blobs WHERE reference = ? AND platform = ?", (reference, platform))


def _put(connection: Connection, image: Image) -> None:
    platform = _key(image.platform)
    _delete(connection, image.reference, platform)
    connection.execute(
        f"INSERT INTO images ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            image.reference,
            platform,
            json.dumps(platform_to_json(image.platform)),
            image.digest,
            image.manifest_digest,
            image.config.raw,
            json.dumps([_layer_to_json(layer) for layer in image.layers]),
            image.chain_id,
            image.size_bytes,
            image.content,
            image.snapshotter,
            int(image.unpacked),
            image.created_at.isoformat(),
        ),
    )
    connection.executemany(
        "INSERT INTO image_blobs (digest, reference, platform) VALUES (?, ?, ?)",
        [(digest, image.reference, platform) for digest in image.kept],
    )


def _image(row: Row) -> Image:
    return Image(
        reference=row["reference"],
        digest=Digest(row["digest"]),
        manifest_digest=Digest(row["manifest_digest"]),
        platform=platform_from_json(row["platform_fields"]),
        config=ImageConfig.parse(bytes(row["config"])),
        layers=tuple(_layer_from_json(fields) for fields in json.loads(row["layers"])),
        chain_id=Digest(row["chain_id"]),
        size_bytes=row["size_bytes"],
        content=row["content"],
        snapshotter=row["snapshotter"],
        unpacked=bool(row["unpacked"]),
        created_at=datetime.fromisoformat(row["created_at"]),
    )


def _layer_to_json(layer: Layer) -> dict[str, object]:
    return {
        "digest": layer.digest,
        "media_type": layer.media_type,
        "size_bytes": layer.size_bytes,
        "diff_id": layer.diff_id,
        "chain_id": layer.chain_id,
    }


def _layer_from_json(fields: Mapping[str, str | int]) -> Layer:
    return Layer(
        digest=Digest(str(fields["digest"])),
        media_type=str(fields["media_type"]),
        size_bytes=int(fields["size_bytes"]),
        diff_id=Digest(str(fields["diff_id"])),
        chain_id=Digest(str(fields["chain_id"])),
    )
