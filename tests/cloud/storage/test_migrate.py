"""Migrations on both engines: run once, whole or not at all, by one of many starters, and with the password unseen."""

import asyncio
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud.storage import Location, PostgresLocation, ServiceEngine, Statement
from cloud.storage import migrate as migrate_module
from cloud.storage.errors import DatabaseTooNew, DatabaseUnavailable, MigrationFailed, StorageError
from cloud.storage.location import parse_location
from cloud.storage.migrate import applied_ids, ensure_migrated, known_ids, missing_ids
from lab.postgres import cluster, database_location
from tests.cloud.engines import ENGINES
from tests.cloud.storage_sample.support import SERVICE

pytestmark = pytest.mark.slow


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(engine: str, tmp_path: Path) -> Location:
    return database_location(engine, SERVICE, tmp_path)


@pytest.fixture
def empty(engine: str, tmp_path: Path) -> Location:
    """A database without a table; on SQLite, no file."""
    return cluster().create() if engine == "postgresql" else tmp_path / "empty.sqlite"


def run(location: Location, *statements: str) -> list[list[dict[str, object]]]:
    """Run statements as an administrator would."""

    async def body() -> list[list[dict[str, object]]]:
        engine = ServiceEngine("administrator")
        engine.configure(location)
        await engine.open()
        try:
            return [await engine.fetch(Statement(statement)) for statement in statements]
        finally:
            await engine.close()

    return asyncio.run(body())


def tables(location: Location) -> set[str]:
    if isinstance(location, PostgresLocation):
        listed = "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'"
    else:
        listed = "SELECT name FROM sqlite_master WHERE type = 'table'"
    return {str(row["name"]) for row in run(location, listed)[0]}


def test_an_empty_database_gets_all_and_then_nothing(empty: Location) -> None:
    assert applied_ids(empty) == set()
    assert missing_ids(SERVICE, empty) == known_ids(SERVICE)
    assert ensure_migrated(SERVICE, empty)
    assert tables(empty) == {"migration", "widget", "part"}
    assert missing_ids(SERVICE, empty) == set()
    assert not ensure_migrated(SERVICE, empty)


def test_a_newer_database_is_refused(database: Location) -> None:
    run(database, "INSERT INTO migration (name, app_name) VALUES ('2099-01-01T00:00:00:000000', 'x')")
    with pytest.raises(DatabaseTooNew, match="2099"):
        ensure_migrated(SERVICE, database)


def test_a_failed_migration_changes_nothing(database: Location) -> None:
    """Forget that the migration ran: it runs again, fails on the existing table, and leaves all as it was."""
    run(database, "DELETE FROM migration", "DROP TABLE part")
    assert missing_ids(SERVICE, database) == known_ids(SERVICE)
    with pytest.raises(MigrationFailed, match="widget"):
        ensure_migrated(SERVICE, database)
    assert tables(database) == {"widget", "migration"}
    assert applied_ids(database) == set()


def test_replicas_that_start_together_migrate_once() -> None:
    empty = cluster().create()
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: ensure_migrated(SERVICE, empty), range(4)))
    assert any(done)
    names = [row["name"] for row in run(empty, "SELECT name FROM migration")[0]]
    assert sorted(map(str, names)) == sorted(known_ids(SERVICE))


@pytest.mark.parametrize("service", ["breakwater", "fabric"])
def test_the_schema_of_a_service_is_the_same_on_both_engines(service: str, tmp_path: Path) -> None:
    """By name: tables, columns, what may be NULL, primary keys, and indexes with their columns."""
    path = database_location("sqlite", service, tmp_path)
    assert isinstance(path, Path)
    connection = sqlite3.connect(path)
    names = [str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns, indexes = set(), set()
    for table in set(names) - {"sqlite_sequence"}:
        info = connection.execute(f"PRAGMA table_info({table})").fetchall()
        columns |= {(table, str(row[1]), bool(row[3] or row[5]), bool(row[5])) for row in info}
        for index in connection.execute(f"PRAGMA index_list({table})").fetchall():
            over = [str(row[2]) for row in connection.execute(f"PRAGMA index_info({index[1]})").fetchall()]
            indexes.add((table, bool(index[2]), *over))
    connection.close()
    postgres_columns, postgres_indexes = run(
        database_location("postgresql", service, tmp_path),
        "SELECT c.table_name AS t, c.column_name AS name, c.is_nullable = 'NO' AS filled, EXISTS (SELECT 1 FROM "
        "information_schema.key_column_usage k JOIN information_schema.table_constraints x "
        "ON x.constraint_name = k.constraint_name AND x.constraint_type = 'PRIMARY KEY' "
        "WHERE k.table_name = c.table_name AND k.column_name = c.column_name) AS is_key "
        "FROM information_schema.columns c WHERE c.table_schema = 'public'",
        "SELECT t.relname AS t, i.indisunique AS is_unique, a.attname AS name FROM pg_index i "
        "JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace "
        "JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0] "
        "WHERE n.nspname = 'public' AND i.indnatts = 1",
    )
    assert {tuple(row.values()) for row in postgres_columns} == columns
    ours = {tuple(row.values()) for row in postgres_indexes} - {("migration", True, "id")}
    assert ours == indexes


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:secret@h/n",
        "postgresql://u@h/n?sslmode=disable",
        "postgresql://u@h/",
        "postgresql://h/n",
        "postgresql://u@/n",
        "postgresql://u@h/n?pool=0",
        "postgresql://u@h/n?pool",
        "postgresql://u@h:port/n",
    ],
)
def test_an_address_that_is_none_or_shows_a_password(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_location(text)
    assert "secret" not in str(caught.value)
    program = [sys.executable, "-m", "cloud.storage.migrate", SERVICE, text]
    if "secret" in text:
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "secret" not in done.stderr


@pytest.mark.parametrize(
    "location",
    [
        PostgresLocation(host="db.example", name="fabric", user="fabric"),
        PostgresLocation(
            host="/run/post gres",
            port=5433,
            name="a/b?c",
            user="ü@x",
            password_file="/etc/p&w",
            tls_ca_file="/c",
            pool=3,
            needs_fsync=False,
        ),
        Path("/var/lib/x.sqlite"),
    ],
)
def test_an_address_comes_back_as_it_went(location: Location) -> None:
    assert parse_location(str(location)) == location


def test_the_password_is_in_no_argument_and_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the subprocess is given: the name of the password's file. What it says when it fails: no more."""
    file = tmp_path / "password"
    file.write_text("the-password\n")
    location = PostgresLocation(host=str(tmp_path), name="n", user="u", password_file=str(file))
    seen: list[str] = []

    def look(program: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.extend([*program, str(options)])
        return subprocess.CompletedProcess(program, 70, "", "it failed")

    monkeypatch.setattr(migrate_module, "missing_ids", lambda *_: {"1"})
    monkeypatch.setattr(subprocess, "run", look)
    with pytest.raises(MigrationFailed, match="it failed"):
        ensure_migrated(SERVICE, location)
    assert any("password_file" in argument for argument in seen)
    assert not any("the-password" in argument for argument in seen)


def test_no_service_and_no_server(tmp_path: Path) -> None:
    with pytest.raises((StorageError, ModuleNotFoundError)):
        ensure_migrated("nobody", tmp_path / "x.sqlite")
    with pytest.raises(DatabaseUnavailable):
        ensure_migrated(SERVICE, PostgresLocation(host=str(tmp_path), name="n", user="u"))
