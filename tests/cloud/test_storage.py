"""The storage port on real files: transactions, cancellation, crash, migrations."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud.storage import ServiceEngine, Statement, StorageError, StorageNotOpen, TransactionMisuse
from cloud.storage.errors import DatabaseBusy, DatabaseTooNew, IntegrityError, MigrationFailed, TransactionLost
from cloud.storage.migrate import ensure_migrated, known_ids, missing_ids
from tests.cloud.storage_sample.tables import ENGINE, Widget

SERVICE = "tests.cloud.storage_sample"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
INSERT = Statement("INSERT INTO widget (id, label, made_at) VALUES ({}, {}, {})")
SELECT = Statement("SELECT id, label, is_open, amount_minor, blob, made_at FROM widget WHERE id = {}")
COUNT = Statement("SELECT COUNT(*) AS n FROM widget")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated, empty database, made once by the real subprocess."""
    path = tmp_path_factory.mktemp("storage") / "sample.sqlite"
    assert ensure_migrated(SERVICE, path)
    return path.read_bytes()


@pytest.fixture
def database(tmp_path: Path, migrated: bytes) -> Path:
    path = tmp_path / "sample.sqlite"
    path.write_bytes(migrated)
    return path


def on(database: Path, test: Coroutine[Any, Any, None]) -> None:
    """Run `test` with the sample engine open on `database`."""

    async def body() -> None:
        ENGINE.configure(database)
        await ENGINE.open()
        try:
            await test
        finally:
            await ENGINE.close()

    asyncio.run(body())


async def count() -> int:
    row = await ENGINE.fetch_one(COUNT)
    assert row is not None
    return int(row["n"])


def test_statement_compiles_for_both_dialects() -> None:
    statement = Statement("UPDATE t SET a = {}, b = '{{x}}' WHERE c = {} RETURNING a")
    assert statement.sql("sqlite") == "UPDATE t SET a = ?, b = '{x}' WHERE c = ? RETURNING a"
    assert statement.sql("postgres") == "UPDATE t SET a = $1, b = '{x}' WHERE c = $2 RETURNING a"
    assert (statement.parameter_count, statement.reads, SELECT.reads) == (2, False, True)
    with pytest.raises(ValueError, match=r"only \{\} is known"):
        Statement("SELECT {name}")


def test_rows_are_typed_and_both_ways_agree(database: Path) -> None:
    async def test() -> None:
        async with ENGINE.transaction():
            await Widget.insert(Widget(id="w1", label="one", amount_minor=2**60, blob=b"\x00\xff", made_at=NOW)).run()
        row = await ENGINE.fetch_one(SELECT, "w1")
        assert row == {
            "id": "w1",
            "label": "one",
            "is_open": True,
            "amount_minor": 2**60,
            "blob": b"\x00\xff",
            "made_at": NOW,
        }
        assert await Widget.select().where(Widget.id == "w1").first().run() == row
        with pytest.raises(ValueError, match="takes 1 values"):
            await ENGINE.fetch(SELECT)

    on(database, test())


def test_uncommitted_rows_are_seen_inside_only(database: Path) -> None:
    async def test() -> None:
        written, looked = asyncio.Event(), asyncio.Event()

        async def writer() -> None:
            async with ENGINE.transaction():
                await ENGINE.fetch(INSERT, "w1", "one", NOW)
                assert await count() == 1
                assert await Widget.count().run() == 1
                written.set()
                await looked.wait()

        async def reader() -> None:
            await written.wait()
            assert await count() == 0
            assert await Widget.count().run() == 0
            looked.set()

        await asyncio.gather(writer(), reader())
        assert await count() == 1

    on(database, test())


def test_transactions_serialise(database: Path) -> None:
    async def test() -> None:
        async def add(i: int) -> None:
            async with ENGINE.transaction():
                before = await count()
                await asyncio.sleep(0)
                await ENGINE.fetch(INSERT, f"w{i}", str(before), NOW)

        await asyncio.gather(*(add(i) for i in range(30)))
        labels = {row["label"] for row in await Widget.select(Widget.label).run()}
        assert labels == {str(i) for i in range(30)}

    on(database, test())


def test_exception_rolls_back_and_nested_joins(database: Path) -> None:
    async def test() -> None:
        with pytest.raises(KeyError):
            async with ENGINE.transaction():
                await ENGINE.fetch(INSERT, "w1", "", NOW)
                raise KeyError
        assert await count() == 0
        async with ENGINE.transaction() as outer:
            await ENGINE.fetch(INSERT, "w1", "", NOW)
            async with ENGINE.transaction() as inner:
                assert inner is outer
                await ENGINE.fetch(INSERT, "w2", "", NOW)
        assert await count() == 2

    on(database, test())


def test_a_failed_inner_block_dooms_the_whole(database: Path) -> None:
    async def test() -> None:
        with pytest.raises(TransactionMisuse, match="rolled back"):
            async with ENGINE.transaction():
                await ENGINE.fetch(INSERT, "w1", "", NOW)
                with pytest.raises(KeyError):
                    async with ENGINE.transaction():
                        raise KeyError
        assert await count() == 0

    on(database, test())


def test_a_refused_statement_leaves_the_transaction_usable(database: Path) -> None:
    async def test() -> None:
        async with ENGINE.transaction():
            await ENGINE.fetch(INSERT, "w1", "", NOW)
            with pytest.raises(IntegrityError):
                await ENGINE.fetch(INSERT, "w1", "", NOW)
            await ENGINE.fetch(INSERT, "w2", "", NOW)
        assert await count() == 2

    on(database, test())


def test_a_transaction_belongs_to_its_task(database: Path) -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def later() -> None:
            await go.wait()
            await ENGINE.fetch(INSERT, "w2", "", NOW)

        async with ENGINE.transaction():
            with pytest.raises(TransactionMisuse, match="belongs to the task"):
                await asyncio.create_task(ENGINE.fetch(INSERT, "w1", "", NOW))
            task = asyncio.create_task(later())
        go.set()
        await task  # it started inside and runs after: it writes in a transaction of its own
        assert await count() == 1

    on(database, test())


def test_cancellation_at_every_await_leaves_the_writer_usable(database: Path) -> None:
    """Cancel a transaction after 0, 1, 2 ... turns of the loop; each time it is whole or not there."""

    async def test() -> None:
        finished = 0
        for turns in range(40):
            kept = await count()

            async def change(turns: int = turns) -> None:
                async with ENGINE.transaction():
                    await ENGINE.fetch(INSERT, f"a{turns}", "", NOW)
                    await asyncio.sleep(0)
                    await Widget.insert(Widget(id=f"b{turns}", made_at=NOW)).run()
                    await asyncio.sleep(0)

            task = asyncio.create_task(change())
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = task.cancel()
            try:
                await task
                finished += 1
            except asyncio.CancelledError:
                assert cancelled
            assert await count() in (kept, kept + 2)
            async with asyncio.timeout(2), ENGINE.transaction():
                pass
        assert finished or await count()

    on(database, test())


def test_cancellation_while_waiting_for_the_writer(database: Path) -> None:
    async def test() -> None:
        async with ENGINE.transaction():
            waiting = asyncio.create_task(ENGINE.fetch(INSERT, "w1", "", NOW))
            elsewhere = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, elsewhere.set_result, None)
            await elsewhere
            waiting.cancel()
        with pytest.raises((asyncio.CancelledError, TransactionMisuse)):
            await waiting
        await ENGINE.fetch(INSERT, "w2", "", NOW)
        assert await count() == 1

    on(database, test())


def test_a_full_disk_keeps_nothing_and_loses_nothing(database: Path) -> None:
    async def test() -> None:
        await ENGINE.fetch(INSERT, "kept", "", NOW)
        await ENGINE.fetch(Statement("PRAGMA max_page_count = 8"))
        with pytest.raises((sqlite3.OperationalError, TransactionLost)):
            async with ENGINE.transaction():
                for i in range(100):
                    await ENGINE.fetch(INSERT, f"w{i}", "x" * 4000, NOW)
        await ENGINE.fetch(Statement("PRAGMA max_page_count = 100000"))
        assert await count() == 1
        await ENGINE.fetch(INSERT, "after", "", NOW)

    on(database, test())


def test_a_lost_transaction_runs_no_statement_on_its_own(database: Path) -> None:
    async def test() -> None:
        with pytest.raises(TransactionLost):
            async with ENGINE.transaction():
                await ENGINE.fetch(Statement("ROLLBACK"))
                await ENGINE.fetch(INSERT, "w1", "", NOW)
        assert await count() == 0

    on(database, test())


def test_not_open_and_configured_twice(database: Path) -> None:
    engine = ServiceEngine("other")
    with pytest.raises(StorageNotOpen, match="not been configured"):
        asyncio.run(engine.open())

    async def test() -> None:
        with pytest.raises(TransactionMisuse, match="is open"):
            ENGINE.configure(database)
        engine.configure(database.parent / "absent" / "x.sqlite")
        with pytest.raises(StorageError, match="cannot open the database"):
            await engine.open()

    on(database, test())
    with pytest.raises(StorageNotOpen, match="is not open"):
        asyncio.run(ENGINE.fetch(COUNT))


def test_two_engines_do_not_know_of_each_other(database: Path, tmp_path: Path) -> None:
    other = ServiceEngine("other")
    other.configure(tmp_path / "other.sqlite")

    async def test() -> None:
        await other.open()
        async with ENGINE.transaction(), other.transaction():
            await other.fetch(Statement("CREATE TABLE t (a TEXT)"))
            await ENGINE.fetch(INSERT, "w1", "", NOW)
        assert await other.fetch(Statement("SELECT * FROM t")) == []
        assert (tmp_path / "other.sqlite").stat().st_mode & 0o777 == 0o600
        await other.close()

    on(database, test())


def test_another_process_s_write_lock_is_waited_for(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.storage.sqlite.BUSY_WAIT_SECONDS", 0.1)

    async def test() -> None:
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match="another process"):
            await ENGINE.fetch(INSERT, "w1", "", NOW)
        asyncio.get_running_loop().call_later(0.05, other.execute, "ROLLBACK")
        await ENGINE.fetch(INSERT, "w1", "", NOW)
        assert await count() == 1
        other.close()

    on(database, test())


CHILD = """
import asyncio, sys
from datetime import datetime, UTC
from pathlib import Path
from tests.cloud.test_storage import ENGINE, INSERT

async def main():
    ENGINE.configure(Path(sys.argv[1]))
    await ENGINE.open()
    for i in range(100000):
        async with ENGINE.transaction():
            await ENGINE.fetch(INSERT, f"a{i}", "", datetime.now(UTC))
            await ENGINE.fetch(INSERT, f"b{i}", "", datetime.now(UTC))
        print(i, flush=True)

asyncio.run(main())
"""


def test_what_was_committed_survives_a_kill(database: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(database)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 50:
            child.send_signal(signal.SIGKILL)
            break
    acknowledged = 50 + sum(1 for _ in child.stdout)
    child.stdout.close()
    child.wait()

    async def test() -> None:
        rows = {row["id"] for row in await Widget.select(Widget.id).run()}
        assert {f"{letter}{i}" for i in range(acknowledged + 1) for letter in "ab"} <= rows
        assert len(rows) % 2 == 0

    on(database, test())


def test_migrations_are_skipped_when_nothing_is_missing(database: Path) -> None:
    assert missing_ids(SERVICE, database) == set()
    assert not ensure_migrated(SERVICE, database)


def test_a_newer_database_is_refused(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO migration (name, app_name) VALUES ('2099-01-01T00:00:00:000000', 'x')")
    connection.close()
    with pytest.raises(DatabaseTooNew, match="2099"):
        ensure_migrated(SERVICE, database)


def test_a_failed_migration_changes_nothing(database: Path, tmp_path: Path) -> None:
    """Forget that the migration ran: it runs again, fails on the existing table, and leaves the file as it was."""
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM migration")
        connection.execute("DROP TABLE part")
    connection.close()
    assert missing_ids(SERVICE, database) == known_ids(SERVICE)
    with pytest.raises(MigrationFailed, match="widget"):
        ensure_migrated(SERVICE, database)
    connection = sqlite3.connect(database)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert tables == {"widget", "migration"}
