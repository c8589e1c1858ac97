"""The tables of a new metadata.db, as SQL: what the steps of :mod:`~imgpull.store.database.schema` come to, one after
the other, written down (Rails' ``structure.sql``). Running the steps would import sqlite-utils into nearly every first
pull, and, with whatever else is installed, numpy.

Not edited by hand. Whoever adds a step pastes what a database made by all steps has in ``sqlite_master``, in its order;
a test compares the two, table for table and index for index.
"""

from __future__ import annotations

__all__ = ["STATEMENTS"]

STATEMENTS = (
    """\
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
)""",
    """\
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name")""",
    """\
CREATE TABLE "blobs" (
   "digest" TEXT PRIMARY KEY,
   "size_bytes" INTEGER NOT NULL,
   "created_at" TEXT NOT NULL,
   "updated_at" TEXT NOT NULL,
   "labels" TEXT NOT NULL
)""",
    """\
CREATE TABLE "diff_ids" (
   "digest" TEXT PRIMARY KEY,
   "diff_id" TEXT NOT NULL
)""",
    """\
CREATE TABLE "snapshots" (
   "name" TEXT PRIMARY KEY,
   "kind" TEXT NOT NULL,
   "parent" TEXT,
   "diff_id" TEXT,
   "directory" TEXT NOT NULL,
   "size_bytes" INTEGER,
   "inodes" INTEGER,
   "created_at" TEXT NOT NULL,
   "labels" TEXT NOT NULL
)""",
    """\
CREATE INDEX "idx_snapshots_parent"
    ON "snapshots" ("parent")""",
    """\
CREATE TABLE "images" (
   "reference" TEXT,
   "platform" TEXT,
   "platform_fields" TEXT,
   "digest" TEXT NOT NULL,
   "manifest_digest" TEXT NOT NULL,
   "config" BLOB NOT NULL,
   "layers" TEXT NOT NULL,
   "chain_id" TEXT NOT NULL,
   "size_bytes" INTEGER NOT NULL,
   "content" TEXT,
   "snapshotter" TEXT,
   "unpacked" INTEGER,
   "created_at" TEXT NOT NULL,
   PRIMARY KEY ("reference", "platform")
)""",
    """\
CREATE TABLE "image_blobs" (
   "digest" TEXT,
   "reference" TEXT,
   "platform" TEXT,
   PRIMARY KEY ("digest", "reference", "platform")
)""",
    """\
CREATE INDEX "idx_image_blobs_reference_platform"
    ON "image_blobs" ("reference", "platform")""",
    """\
CREATE TABLE "layout" (
   "id" INTEGER PRIMARY KEY,
   "generation" INTEGER NOT NULL
)""",
    """INSERT INTO "layout" ("id", "generation") VALUES (1, 1)""",
)
"""Not one script: ``executescript`` commits before it begins, and these belong to one transaction."""
