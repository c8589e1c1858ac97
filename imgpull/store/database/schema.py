"""The tables of metadata.db: how a new one is made, and how an older one becomes current.

A new database is made from :mod:`~imgpull.store.database.new_tables`, SQL that needs no import. An older one is brought
up to date by the steps below: sqlite-utils keeps the books of what was applied (its table ``_sqlite_migrations``) and
writes the DDL. Its import costs 90 ms, 160 with the numpy that it takes where it finds one, so ``PRAGMA user_version``
is kept in step: a database that is up to date never loads it either.

A step that was released is never edited: the next change is the next function, and ``new_tables`` follows.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from imgpull.errors import StoreError
from imgpull.store.database.new_tables import STATEMENTS

if TYPE_CHECKING:
    from sqlite_utils import Database as SchemaDatabase

__all__ = ["VERSION", "bring_up_to_date", "is_current", "load"]


def first_tables(db: SchemaDatabase) -> None:
    """Blobs, diff IDs, snapshots, images and the blobs they rest on."""
    db.create_table(
        "blobs",
        {"digest": str, "size_bytes": int, "created_at": str, "updated_at": str, "labels": str},
        pk="digest",
        not_null={"size_bytes", "created_at", "updated_at", "labels"},
    )
    # What this store itself measured when it inflated a layer; never what an image claims.
    db.create_table("diff_ids", {"digest": str, "diff_id": str}, pk="digest", not_null={"diff_id"})
    db.create_table(
        "snapshots",
        {
            "name": str,
            "kind": str,
            "parent": str,
            "diff_id": str,
            "directory": str,
            "size_bytes": int,
            "inodes": int,
            "created_at": str,
            "labels": str,
        },
        pk="name",
        not_null={"kind", "directory", "created_at", "labels"},
    ).create_index(["parent"])
    _create_images(db)


def _create_images(db: SchemaDatabase) -> None:
    db.create_table(
        "images",
        {
            "reference": str,
            "platform": str,
            "platform_fields": str,
            "digest": str,
            "manifest_digest": str,
            "config": bytes,
            "layers": str,
            "chain_id": str,
            "size_bytes": int,
            "content": str,
            "snapshotter": str,
            "unpacked": int,
            "created_at": str,
        },
        pk=("reference", "platform"),
        not_null={"digest", "manifest_digest", "config", "layers", "chain_id", "size_bytes", "created_at"},
    )
    # Which blobs an image rests on: asked whenever a blob is removed, and by collection.
    db.create_table(
        "image_blobs", {"digest": str, "reference": str, "platform": str}, pk=("digest", "reference", "platform")
    ).create_index(["reference", "platform"])
    # One row. Raised by every change of what index.json shows; index.json names the generation it was made from.
    db.create_table("layout", {"id": int, "generation": int}, pk="id", not_null={"generation"}).insert(
        {"id": 1, "generation": 1}
    )


_MIGRATION_SET = "imgpull"
_STEPS = (first_tables,)
VERSION = len(_STEPS)
"""``PRAGMA user_version`` of a database that is up to date."""


def is_current(version: int, path: str) -> bool:
    """Whether a database with this ``user_version`` is up to date. Raises StoreError where a later release wrote it."""
    if version > VERSION:
        raise StoreError(
            f"the database {path} was written by a later imgpull (schema {version}, this one knows {VERSION}): "
            "upgrade imgpull",
            path=path,
        )
    return version == VERSION


def load() -> None:
    """Import what an older database needs: before a lock is taken, where it can be foreseen."""
    import sqlite_utils  # noqa: F401


def bring_up_to_date(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables, or add what is new, in one transaction. The caller holds the store's lock: sqlite-utils looks
    what is pending outside its transactions, so of four processes at once three would fail. Raises sqlite3.Error,
    StoreError.
    """
    if is_current(connection.execute("PRAGMA user_version").fetchone()[0], path):  # another process was first
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        (_make if is_new else _migrate)(connection)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _make(connection: sqlite3.Connection) -> None:
    """All tables as they are now; the books say that every step was applied."""
    for statement in STATEMENTS:
        connection.execute(statement)
    connection.executemany(
        'INSERT INTO "_sqlite_migrations" ("migration_set", "name", "applied_at")'
        " VALUES (?, ?, strftime('%Y-%m-%d %H:%M:%f000+00:00'))",  # as sqlite-utils writes it
        [(_MIGRATION_SET, step.__name__) for step in _STEPS],
    )


def _migrate(connection: sqlite3.Connection) -> None:
    from sqlite_utils import Database as SchemaDatabase
    from sqlite_utils import Migrations

    migrations = Migrations(_MIGRATION_SET)
    for step in _STEPS:
        migrations(name=step.__name__)(step)
    # Plugins would run whatever else is installed in this environment inside our database.
    migrations.apply(SchemaDatabase(connection, execute_plugins=False))
