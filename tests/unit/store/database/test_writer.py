"""The writer: groups, failures in a group, the lock across processes, the end."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes import scripts
from fakes.threads import Worker, start, until
from fakes.writes import grouped, plugged
from imgpull.errors import StoreError, StoreFullError
from imgpull.store.database import Connection, Database, writer
from imgpull.store.database import connection as connections
from imgpull.store.filesystem import FileLock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock")
    yield opened
    opened.close()


def _insert(key: str, value: str = "value") -> Callable[[Connection], str]:
    def insert(connection: Connection) -> str:
        connection.execute("INSERT INTO diff_ids VALUES (?, ?)", (key, value))
        return key

    return insert


def _keys(database: Database) -> set[str]:
    return {row["digest"] for row in database.query("SELECT digest FROM diff_ids")}


def _queued(database: Database, writes: list[Callable[[Connection], object]]) -> list[Worker]:
    """One thread for each write, in this order in the queue, all in one group."""
    return grouped(database, [lambda write=write: database.write(write) for write in writes])


class TestGroups:
    def test_all_that_is_queued_is_one_transaction(self, database: Database) -> None:
        before = database.transactions
        workers = _queued(database, [_insert(f"k{number}") for number in range(20)])
        assert [worker.outcome() for worker in workers] == [f"k{number}" for number in range(20)]
        assert database.transactions - before == 2  # the plug's, and one for the twenty
        assert len(_keys(database)) == 20

    def test_one_that_fails_undoes_itself_and_nothing_else(self, database: Database) -> None:
        class Refused(Exception):
            pass

        def insert_and_fail(connection: Connection) -> None:
            _insert("bad")(connection)
            raise Refused("this one only")

        before = database.transactions
        good, bad, also_good = _queued(database, [_insert("a"), insert_and_fail, _insert("b")])
        assert (good.outcome(), also_good.outcome()) == ("a", "b")
        with pytest.raises(Refused, match="this one only"):
            bad.outcome()
        assert _keys(database) == {"a", "b"}
        assert database.transactions - before == 2

    def test_one_that_breaks_a_constraint_gets_a_store_error(self, database: Database) -> None:
        first, second = _queued(database, [_insert("a"), _insert("a")])
        assert first.outcome() == "a"
        with pytest.raises(StoreError, match="UNIQUE"):
            second.outcome()

    def test_a_transaction_that_is_lost_is_made_again_one_by_one(self, database: Database) -> None:
        def lose(connection: Connection) -> None:
            connection.execute("ROLLBACK")  # as SQLite does by itself on a full disk
            raise sqlite3.OperationalError("lost")

        first, lost, last = _queued(database, [_insert("a"), lose, _insert("b")])
        assert (first.outcome(), last.outcome()) == ("a", "b")
        with pytest.raises(StoreError, match="lost"):
            lost.outcome()
        assert _keys(database) == {"a", "b"}

    def test_a_full_disk_stops_what_grows_and_not_what_shrinks(self, database: Database) -> None:
        database.write(_insert("old"))

        def fill(connection: Connection) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages}")
            connection.execute("INSERT INTO diff_ids VALUES ('big', hex(zeroblob(100000)))")

        def shrink(connection: Connection) -> None:
            connection.execute("DELETE FROM diff_ids WHERE digest = 'old'")

        full, shrunk = _queued(database, [fill, shrink])
        with pytest.raises(StoreFullError, match="no space left"):
            full.outcome()
        shrunk.outcome()
        assert _keys(database) == set()

    def test_a_write_within_a_write_is_part_of_it(self, database: Database) -> None:
        before = database.transactions

        def outer(connection: Connection) -> str:
            _insert("outer")(connection)
            with pytest.raises(StoreError):
                database.write(lambda c: (_insert("undone")(c), _insert("outer")(c)))
            return database.write(_insert("inner"))

        assert database.write(outer) == "inner"
        assert database.transactions - before == 1
        assert _keys(database) == {"outer", "inner"}

    def test_one_that_is_alone_has_a_transaction_of_its_own_in_its_turn(self, database: Database) -> None:
        seen: list[set[str]] = []

        def look(_: Connection) -> None:
            seen.append(_keys(database))  # by another connection: what is committed

        def alone() -> None:
            database.write(look, alone=True)

        def insert(key: str) -> Callable[[], object]:
            return lambda: database.write(_insert(key))

        before = database.transactions
        grouped(database, [insert("a"), insert("b"), alone, alone, insert("c"), insert("d")])
        assert seen == [{"a", "b"}, {"a", "b"}]
        assert _keys(database) == {"a", "b", "c", "d"}
        assert database.transactions - before == 5  # the plug's, and four

    def test_one_within_another_cannot_be_alone(self, database: Database) -> None:
        with pytest.raises(AssertionError, match="alone"):
            database.write(lambda _: database.write(_insert("a"), alone=True))


class TestNothingElseHoldsItUp:
    def test_readers_do_not_wait_and_see_the_last_commit(self, database: Database) -> None:
        database.write(_insert("a"))
        with plugged(database):
            assert _keys(database) == {"a"}

    def test_a_log_that_a_reader_pins_is_cut_later(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer, "_CHECKPOINT_BYTES", 64 * 1024)
        monkeypatch.setattr(connections, "_BUSY_TIMEOUT_SECONDS", 30.0)  # a checkpoint that waits would be noticed
        log = f"{database.path}-wal"
        reader = sqlite3.connect(database.path)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM diff_ids").fetchone() == (0,)
        for number in range(4):
            database.write(_insert(f"k{number}", "v" * 65536))
        with plugged(database):  # the checkpoint after the last of them is over
            assert os.stat(log).st_size > 64 * 1024
        reader.close()
        database.write(_insert("last"))
        with plugged(database):
            assert os.stat(log).st_size < 64 * 1024
        assert len(_keys(database)) == 5

    def test_a_thread_that_is_refused_is_an_error_and_the_next_write_works(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(StoreError, match="can't start new thread"):
                database.write(_insert("a"))
        assert database.write(_insert("b")) == "b"
        assert _keys(database) == {"b"}


class TestTheLockBetweenProcesses:
    def test_a_write_waits_for_it(self, database: Database, tmp_path: Path) -> None:
        other = FileLock(tmp_path / "metadata.lock")
        with other:
            worker = start(lambda: database.write(_insert("a")))
            until(lambda: database._writer._queue.empty() and database._writer._thread is not None, "the write began")
            assert _keys(database) == set()
            assert worker.is_alive()
        assert worker.outcome() == "a"
        other.close()

    def test_two_processes_lose_nothing(self, tmp_path: Path) -> None:
        source = """
            from imgpull.store.database import Database
            root, number = sys.argv[1:]
            database = Database(root + "/metadata.db", root + "/metadata.lock")
            print("ready", flush=True); input()
            for i in range(150):
                row = (f"{number}-{i}", "x")
                database.write(lambda c: c.execute("INSERT INTO diff_ids VALUES (?, ?)", row))
            database.close()
            print(database.transactions)
        """
        assert scripts.run_together(2, source, tmp_path) == ["150\n", "150\n"]
        database = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock")
        try:
            assert len(_keys(database)) == 300
            assert database.query("PRAGMA integrity_check")[0][0] == "ok"
        finally:
            database.close()

    def test_a_killed_holder_is_followed(self, database: Database, tmp_path: Path) -> None:
        process = scripts.begin(
            """
            from imgpull.store.filesystem import FileLock
            FileLock(sys.argv[1]).acquire()
            print("held", flush=True); input()
            """,
            tmp_path / "metadata.lock",
        )
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        worker = start(lambda: database.write(_insert("a")))
        process.kill()
        process.communicate()
        assert worker.outcome() == "a"

    def test_a_lock_that_cannot_be_taken_is_the_writers_error(self, tmp_path: Path) -> None:
        database = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock")
        os.unlink(tmp_path / "metadata.lock")
        os.mkdir(tmp_path / "metadata.lock")
        with pytest.raises(StoreError, match=r"cannot lock .*metadata\.lock"):
            database.write(_insert("a"))
        os.rmdir(tmp_path / "metadata.lock")
        assert database.write(_insert("b")) == "b"
        database.close()


class TestRiders:
    def test_they_go_with_the_next_write_and_before_it(self, database: Database) -> None:
        before = database.transactions
        with database.gathering():
            for number in range(40):
                database.ride(_insert(f"k{number}"))
            assert _keys(database) == set()
            assert database.transactions == before
            assert database.write(lambda c: len(c.execute("SELECT 1 FROM diff_ids").fetchall())) == 40
        assert database.transactions - before == 1
        assert len(_keys(database)) == 40

    def test_where_nobody_gathers_one_is_a_write(self, database: Database) -> None:
        before = database.transactions
        database.ride(_insert("a"))
        assert database.transactions - before == 1
        assert _keys(database) == {"a"}
        with pytest.raises(StoreError, match="UNIQUE"):
            database.ride(_insert("a"))

    def test_they_go_alone_when_the_last_who_gathered_ends_without_a_write(self, database: Database) -> None:
        with database.gathering():
            with pytest.raises(ZeroDivisionError), database.gathering():
                database.ride(_insert("a"))
                raise ZeroDivisionError
            assert _keys(database) == set()
        until(lambda: _keys(database) == {"a"}, "it was written")

    def test_too_many_go_at_once(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("imgpull.store.database.writer._RIDERS", 3)
        with database.gathering():
            for number in range(4):
                database.ride(_insert(f"k{number}"))
            until(lambda: len(_keys(database)) == 3, "three were written")
        until(lambda: len(_keys(database)) == 4, "the fourth was written")

    def test_the_end_takes_them_along(self, database: Database) -> None:
        with database.gathering():
            database.ride(_insert("a"))
            database.close()
            with pytest.raises(StoreError, match="closed"):
                database.ride(_insert("b"))
        with sqlite3.connect(database.path) as connection:
            assert connection.execute("SELECT digest FROM diff_ids").fetchall() == [("a",)]
        connection.close()

    def test_an_error_is_logged_and_nobody_elses(self, database: Database, caplog: pytest.LogCaptureFixture) -> None:
        with database.gathering():
            database.write(_insert("a"))
            database.ride(_insert("a"))
            database.write(_insert("b"))
        assert _keys(database) == {"a", "b"}
        assert "UNIQUE" in caplog.text

    def test_a_group_that_is_lost_is_made_again_riders_and_all(self, database: Database) -> None:
        broken: list[Connection] = []

        def lose_once(connection: Connection) -> None:
            if not broken:
                broken.append(connection)
                connection.execute("ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")

        with database.gathering():
            database.ride(_insert("a"))
            database.ride(lose_once)
            database.write(_insert("b"))
        assert _keys(database) == {"a", "b"}

    def test_within_a_write_one_is_part_of_it(self, database: Database) -> None:
        with database.gathering():
            database.write(lambda _: database.ride(_insert("a")))
        assert _keys(database) == {"a"}


class TestTheEnd:
    def test_what_was_queued_is_written(self, database: Database) -> None:
        with plugged(database):
            worker = start(lambda: database.write(_insert("a")))
            until(lambda: database._writer._queue.qsize() == 1, "the write is queued")
            closing = start(database.close, "closing")
            until(lambda: database._writer._stopped, "closing began")
        assert worker.outcome() == "a"
        closing.outcome()
        with sqlite3.connect(database.path) as connection:
            assert connection.execute("SELECT digest FROM diff_ids").fetchall() == [("a",)]
        connection.close()

    def test_nothing_comes_after_it(self, database: Database) -> None:
        database.write(_insert("a"))
        thread = database._writer._thread
        database.close()
        database.close()
        assert thread is not None and not thread.is_alive()
        with pytest.raises(StoreError, match="closed"):
            database.write(_insert("b"))
        with pytest.raises(StoreError, match="closed"):
            database.query("SELECT 1")
        with pytest.raises(StoreError, match="closed"):  # it may have been closed after the write's own look
            database._writer.write(_insert("b"))

    def test_the_last_close_leaves_no_log(self, database: Database, tmp_path: Path) -> None:
        database.write(_insert("a"))
        database.query("SELECT 1")
        database.close()
        assert sorted(os.listdir(tmp_path)) == ["metadata.db", "metadata.lock"]

    @pytest.mark.parametrize("by", ["writer", "reader"])
    def test_closing_waits_for_the_lock_as_it_is_a_checkpoint(
        self, database: Database, tmp_path: Path, by: str
    ) -> None:
        if by == "writer":
            database.write(_insert("a"))
        database.query("SELECT 1 FROM blobs")
        other = FileLock(tmp_path / "metadata.lock")
        with other:
            closing = start(database.close)
            until(lambda: database._writer._stopped, "closing began")
            closing.join(0.1)  # it waits for the lock; without one it would be done by now
            assert closing.is_alive()
            assert os.path.exists(f"{database.path}-wal")
        closing.outcome()
        other.close()
        assert not os.path.exists(f"{database.path}-wal")

    def test_an_interpreter_that_ends_does_not_wait_for_a_database_nobody_closed(self, tmp_path: Path) -> None:
        source = """
            from imgpull.store import Store
            store = Store(sys.argv[1])
            store.database.write(lambda c: c.execute("INSERT INTO diff_ids VALUES ('a', 'b')"))
        """
        scripts.run(source, tmp_path / "store", options=("-W", "ignore"))
        assert not (tmp_path / "store" / "metadata.db-wal").exists()
