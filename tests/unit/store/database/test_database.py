"""Opening, reading, and SQLite's errors in the store's words."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import scripts
from fakes.threads import start, together
from imgpull.errors import StoreCorruptError, StoreError, StoreFullError
from imgpull.store.database import Database, connection, schema


def _open(root: Path, *, read_only: bool = False) -> Database:
    return Database(root / "metadata.db", root / "metadata.lock", read_only=read_only)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = _open(tmp_path)
    yield opened
    opened.close()


def _pragma(database: Database, name: str) -> object:
    return database.write(lambda c: c.execute(f"PRAGMA {name}").fetchone()[0])


class TestSchema:
    def test_four_processes_that_open_at_once_make_it_once(self, tmp_path: Path) -> None:
        source = """
            import sqlite_utils
            from imgpull.store.database import Database
            print("ready", flush=True); input()
            Database(sys.argv[1] + "/metadata.db", sys.argv[1] + "/metadata.lock").close()
            print("opened")
        """
        assert scripts.run_together(4, source, tmp_path) == ["opened\n"] * 4
        database = _open(tmp_path)
        try:
            assert [row["name"] for row in database.query("SELECT name FROM _sqlite_migrations")] == ["first_tables"]
            assert database.query("PRAGMA user_version")[0][0] == schema.VERSION == 1
            assert database.query("SELECT generation FROM layout")[0][0] == 1
        finally:
            database.close()

    def test_four_threads_too(self, tmp_path: Path) -> None:
        for opened in together([lambda: _open(tmp_path)] * 4):
            assert isinstance(opened, Database)
            opened.close()

    def test_only_an_older_database_loads_sqlite_utils(self, tmp_path: Path) -> None:
        source = """
            from imgpull.store import Store
            with Store(sys.argv[1]) as store:
                store.database.write(lambda c: None)
            print("sqlite_utils" in sys.modules)
        """
        assert scripts.run(source, tmp_path) == "False\n"
        assert scripts.run(source, tmp_path) == "False\n"
        with contextlib.closing(sqlite3.connect(tmp_path / "metadata.db")) as raw:
            raw.execute("PRAGMA user_version=0")
        assert scripts.run(source, tmp_path) == "True\n"

    def test_a_new_database_is_what_the_steps_make_of_an_empty_one(self, tmp_path: Path) -> None:
        made = {}
        for name, make in (("new", schema.bring_up_to_date), ("steps", lambda raw, _: schema._migrate(raw))):
            with contextlib.closing(sqlite3.connect(tmp_path / name, isolation_level=None)) as raw:
                make(raw, name)
                tables = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                rows = {table: raw.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
                books = [(*row[:3], len(row[3]), row[3][-6:]) for row in rows.pop("_sqlite_migrations")]
                made[name] = raw.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall(), rows, books
        assert made["new"] == made["steps"]

    @pytest.mark.parametrize("from_steps", [False, True])
    def test_making_it_that_fails_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_steps: bool
    ) -> None:
        def fail(db: object) -> None:
            raise StoreError("the second step fails")

        with monkeypatch.context() as patched:
            if from_steps:
                patched.setattr(schema, "_make", schema._migrate)
                patched.setattr(schema, "_STEPS", (schema.first_tables, fail))
            else:
                patched.setattr(schema, "STATEMENTS", (*schema.STATEMENTS, "CREATE TABLE blobs (again)"))
            with pytest.raises(StoreError, match="second step|already exists"):
                _open(tmp_path)
        with contextlib.closing(sqlite3.connect(tmp_path / "metadata.db")) as raw:
            assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        _open(tmp_path).close()

    def test_an_older_database_gets_what_is_new_and_keeps_what_it_has(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = _open(tmp_path)
        first.write(lambda c: c.execute("INSERT INTO diff_ids VALUES ('a', 'b')"))
        first.close()

        def second(db: object) -> None:
            db.create_table("more", {"id": int})  # type: ignore[attr-defined]

        monkeypatch.setattr(schema, "_STEPS", (schema.first_tables, second))
        monkeypatch.setattr(schema, "VERSION", 2)
        with pytest.raises(StoreError, match="earlier imgpull"):
            _open(tmp_path, read_only=True)
        again = _open(tmp_path)
        try:
            assert again.query("SELECT count(*) FROM more")[0][0] == 0
            assert [tuple(row) for row in again.query("SELECT * FROM diff_ids")] == [("a", "b")]
        finally:
            again.close()

    def test_a_later_database_is_refused(self, tmp_path: Path) -> None:
        _open(tmp_path).close()
        with contextlib.closing(sqlite3.connect(tmp_path / "metadata.db")) as raw:
            raw.execute(f"PRAGMA user_version={schema.VERSION + 1}")
        with pytest.raises(StoreError, match="upgrade imgpull"):
            _open(tmp_path)
        with contextlib.closing(sqlite3.connect(tmp_path / "metadata.db")) as raw:
            with pytest.raises(StoreError, match="upgrade imgpull"):  # it may have been upgraded since we looked
                schema.bring_up_to_date(raw, "metadata.db")
            assert raw.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 1,)


class TestSettings:
    def test_the_writers_are_durable_and_leave_checkpoints_to_us(self, database: Database) -> None:
        assert _pragma(database, "journal_mode") == "wal"
        assert _pragma(database, "synchronous") == 2  # FULL
        assert _pragma(database, "wal_autocheckpoint") == 0
        assert _pragma(database, "foreign_keys") == 1

    def test_none_is_none_until_somebody_wants_full(self, tmp_path: Path) -> None:
        database = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock", durability="none")
        try:
            assert _pragma(database, "synchronous") == 1  # NORMAL
            database.require("full")
            assert _pragma(database, "synchronous") == 2
            database.require("none")
            assert _pragma(database, "synchronous") == 2
        finally:
            database.close()

    def test_readers_cannot_write(self, database: Database) -> None:
        with pytest.raises(StoreError, match="readonly"):
            database.query("DELETE FROM blobs")


class TestReadPool:
    def test_threads_one_after_the_other_share_one_connection(self, database: Database) -> None:
        for _ in range(20):
            start(lambda: database.query("SELECT 1")).outcome()
        assert len(database._readers._idle) == 1

    def test_more_than_eight_are_not_kept(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        barrier = threading.Barrier(20)
        plain = connection.connect_reader

        def connect_together(path: str, *, read_only: bool) -> sqlite3.Connection:
            opened = plain(path, read_only=read_only)
            opened.create_function("meet", 0, lambda: barrier.wait(20))
            return opened

        database._readers.close()
        database._readers = connection.ReadPool(database.path, f"{database.path}.lock", read_only=False)
        monkeypatch.setattr(connection, "connect_reader", connect_together)
        together([lambda: database.query("SELECT meet()")] * 20)
        assert len(database._readers._idle) == 8

    def test_a_query_that_runs_while_the_pool_closes_ends_well(self, database: Database) -> None:
        reader = database._readers._borrow()
        entered, gate = threading.Event(), threading.Event()

        def wait() -> int:
            entered.set()
            assert gate.wait(20)
            return 7

        reader.create_function("wait", 0, wait)
        database._readers._give_back(reader)
        worker = start(lambda: database.query("SELECT wait()")[0][0])
        assert entered.wait(20)
        database.close()
        gate.set()
        assert worker.outcome() == 7
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            reader.execute("SELECT 1")


class TestErrors:
    def test_a_file_that_is_no_database_is_damage(self, tmp_path: Path) -> None:
        (tmp_path / "metadata.db").write_bytes(b"certainly not SQLite" * 100)
        with pytest.raises(StoreCorruptError, match="pull into a new store") as caught:
            _open(tmp_path)
        assert caught.value.path == str(tmp_path / "metadata.db")
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)

    def test_a_damaged_page_is_damage(self, tmp_path: Path) -> None:
        database = _open(tmp_path)
        database.write(
            lambda c: c.executemany("INSERT INTO diff_ids VALUES (?, 'x')", [(str(n),) for n in range(9999)])
        )
        database.close()
        with open(tmp_path / "metadata.db", "r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * (os.path.getsize(tmp_path / "metadata.db") - 8192))
        database = _open(tmp_path)
        try:
            with pytest.raises(StoreCorruptError):
                database.query("SELECT count(*), max(diff_id) FROM diff_ids")
        finally:
            database.close()

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (sqlite3.SQLITE_FULL, StoreFullError),
            (sqlite3.SQLITE_IOERR_SHMSIZE, StoreFullError),
            (sqlite3.SQLITE_CORRUPT, StoreCorruptError),
            (sqlite3.SQLITE_CORRUPT_INDEX, StoreCorruptError),
            (sqlite3.SQLITE_NOTADB, StoreCorruptError),
            (sqlite3.SQLITE_BUSY, StoreError),
            (sqlite3.SQLITE_IOERR, StoreError),
        ],
    )
    def test_by_code(self, code: int, kind: type[StoreError]) -> None:
        error = sqlite3.OperationalError("text")
        error.sqlite_errorcode = code
        assert type(connection.fault(error, "metadata.db")) is kind

    def test_a_wrong_statement(self, database: Database) -> None:
        with pytest.raises(StoreError, match="no such table: missing"):
            database.query("SELECT * FROM missing")


class TestReadOnly:
    def test_it_reads_and_does_not_write(self, database: Database, tmp_path: Path) -> None:
        database.write(lambda c: c.execute("INSERT INTO diff_ids VALUES ('a', 'b')"))
        reading = _open(tmp_path, read_only=True)
        try:
            assert reading.query("SELECT digest FROM diff_ids")[0][0] == "a"
            database.write(lambda c: c.execute("INSERT INTO diff_ids VALUES ('b', 'b')"))
            assert len(reading.query("SELECT digest FROM diff_ids")) == 2
            with pytest.raises(StoreError, match="read-only"):
                reading.write(lambda c: None)
        finally:
            reading.close()

    def test_where_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no store at"):
            _open(tmp_path, read_only=True)
        assert os.listdir(tmp_path) == []


def test_a_forked_child_is_told_to_open_it_again(tmp_path: Path) -> None:
    source = """
        import os
        from imgpull.errors import StoreError
        from imgpull.store.database import Database
        database = Database(sys.argv[1] + "/metadata.db", sys.argv[1] + "/metadata.lock")
        insert = lambda key: database.write(lambda c: c.execute("INSERT INTO diff_ids VALUES (?, 'x')", (key,)))
        insert("before")
        child = os.fork()
        if child == 0:
            for use in (lambda: insert("child"), lambda: database.query("SELECT 1")):
                try:
                    use()
                except StoreError as error:
                    assert "forked" in str(error)
                else:
                    os._exit(1)
            database.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        insert("after")
        print(len(database.query("SELECT * FROM diff_ids")), database.query("PRAGMA integrity_check")[0][0])
        database.close()
    """
    assert scripts.run(source, tmp_path, options=("-W", "ignore")) == "2 ok\n"
