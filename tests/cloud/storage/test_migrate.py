"""Migrations on both engines: each runs once, as a whole or not at all, also when several replicas start together."""

import asyncio
import sys
import types
from pathlib import Path

import pytest
from piccolo.columns import Text, Varchar

from cloud.storage import Location, PostgresLocation, ServiceEngine, Statement
from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseTooNew,
    DatabaseTooOld,
    DatabaseUnavailable,
    MigrationFailed,
    StorageError,
)
from cloud.storage.migrate import applied_ids, ensure_migrated, known_ids
from cloud.storage.schema import add_column, add_table
from lab.postgres import cluster, database_location
from tests.cloud.engines import ENGINES
from tests.cloud.storage.picture import picture
from tests.cloud.storage_sample.support import SERVICE

LATER = "tests_later"
"""A service whose migrations the tests make."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(engine: str, tmp_path: Path) -> Location:
    return database_location(engine, SERVICE, tmp_path)


@pytest.fixture
def empty(engine: str, tmp_path: Path) -> Location:
    """A database without tables. On SQLite there is no file."""
    return cluster().create() if engine == "postgresql" else tmp_path / "empty.sqlite"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[object, ...]]:
    """The steps of each migration. The test fills them."""
    made: dict[str, tuple[object, ...]] = {}

    class Steps(types.ModuleType):
        STEPS = property(lambda module: made[module.__name__.rpartition(".")[2]])

    for name in "m0001_first", "m0002_second":
        monkeypatch.setitem(
            sys.modules, f"{LATER}.service.migrations.{name}", Steps(f"{LATER}.service.migrations.{name}")
        )
    monkeypatch.setattr("cloud.storage.migrate.known_ids", lambda _: set(made))
    return made


async def run(location: Location, *statements: str) -> list[list[dict[str, object]]]:
    """Run statements as an administrator would."""
    engine = ServiceEngine("administrator")
    engine.configure(location)
    await engine.open()
    try:
        return [await engine.fetch(Statement(statement)) for statement in statements]
    finally:
        await engine.close()


async def lines(location: Location) -> set[str]:
    engine = ServiceEngine("administrator")
    engine.configure(location)
    await engine.open()
    try:
        return await picture(engine)
    finally:
        await engine.close()


async def test_an_empty_database_gets_all_and_then_nothing(empty: Location) -> None:
    assert await applied_ids(empty) == set()
    assert await ensure_migrated(SERVICE, empty)
    assert await applied_ids(empty) == known_ids(SERVICE) == {"m0001_tables"}
    assert {line.partition(".")[0] for line in await lines(empty) if "." in line} == {"widget", "part"}
    assert not await ensure_migrated(SERVICE, empty)
    rows = await run(empty, "SELECT name, ran_at FROM migration")
    assert [row["name"] for row in rows[0]] == ["m0001_tables"]


async def test_to_look_makes_no_file(tmp_path: Path) -> None:
    absent = tmp_path / "absent.sqlite"
    assert await applied_ids(absent) == set()
    assert not await asyncio.to_thread(absent.exists)


async def test_a_newer_database_is_refused(database: Location) -> None:
    await run(database, "INSERT INTO migration (name) VALUES ('m0099_later')")
    before = await lines(database)
    with pytest.raises(DatabaseTooNew, match="m0099_later"):
        await ensure_migrated(SERVICE, database)
    assert await lines(database) == before


async def test_a_database_of_before_the_first_release_is_refused(empty: Location) -> None:
    """With the record that Piccolo's own migrations made."""
    await run(
        empty,
        "CREATE TABLE migration (id INTEGER PRIMARY KEY, name VARCHAR(200), app_name VARCHAR(200), ran_on TIMESTAMP)",
        "INSERT INTO migration (id, name, app_name) VALUES (1, '2026-11-22T13:19:58:774448', 'fabric')",
        "CREATE TABLE widget (id TEXT)",
    )
    before = await lines(empty)
    with pytest.raises(DatabaseTooOld, match=r"before the first release.*make a new installation with `cascade init`"):
        await ensure_migrated(SERVICE, empty)
    assert await lines(empty) == before


async def test_a_failed_migration_changes_nothing(database: Location) -> None:
    """Remove the record of the migration. It runs again, fails on the existing table, and changes nothing."""
    await run(database, "DELETE FROM migration", "DROP TABLE part")
    before = await lines(database)
    with pytest.raises(MigrationFailed, match=r"m0001_tables.*widget"):
        await ensure_migrated(SERVICE, database)
    assert await lines(database) == before
    assert await applied_ids(database) == set()


async def test_later_migrations_run_in_order_with_steps_for_rows(
    empty: Location, later: dict[str, tuple[object, ...]]
) -> None:
    async def fill(engine: ServiceEngine) -> None:
        await engine.fetch(Statement("UPDATE item SET note = id || {tail}"), tail="!")

    later["m0001_first"] = (add_table("item", id=Varchar(length=8, primary_key=True)),)
    assert await ensure_migrated(f"{LATER}.service", empty)
    await run(empty, "INSERT INTO item (id) VALUES ('a')")
    later["m0002_second"] = (add_column("item", note=Text()), fill)
    assert await ensure_migrated(f"{LATER}.service", empty)
    assert await run(empty, "SELECT id, note FROM item") == [[{"id": "a", "note": "a!"}]]
    assert await applied_ids(empty) == {"m0001_first", "m0002_second"}


async def test_one_that_fails_takes_those_before_it_back(empty: Location, later: dict[str, tuple[object, ...]]) -> None:
    async def fail(_: ServiceEngine) -> None:
        raise KeyError("a mistake in a step")

    later["m0001_first"] = (add_table("item", id=Varchar(length=8, primary_key=True)),)
    later["m0002_second"] = (add_column("item", note=Text()), fail)
    with pytest.raises(MigrationFailed, match=r"m0002_second.*a mistake in a step"):
        await ensure_migrated(f"{LATER}.service", empty)
    assert await lines(empty) == set()
    assert await applied_ids(empty) == set()


@pytest.mark.slow
async def test_replicas_that_start_together_migrate_once() -> None:
    empty = await asyncio.to_thread(cluster().create)
    done = await asyncio.gather(*(ensure_migrated(SERVICE, empty) for _ in range(4)))
    assert sorted(done) == [False, False, False, True]
    names = [row["name"] for row in (await run(empty, "SELECT name FROM migration"))[0]]
    assert names == sorted(known_ids(SERVICE))


@pytest.mark.slow
async def test_a_table_in_use_does_not_hold_a_migration_up(
    later: dict[str, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.storage.migrate.TABLE_LOCK_SECONDS", 0.2)
    database = await asyncio.to_thread(cluster().create)
    later["m0001_first"] = (add_table("item", id=Varchar(length=8, primary_key=True)),)
    await ensure_migrated(f"{LATER}.service", database)
    later["m0002_second"] = (add_column("item", note=Text()),)
    reader = ServiceEngine("reader")
    reader.configure(database)
    await reader.open()
    try:
        async with reader.transaction("a"):
            await reader.fetch(Statement("SELECT id FROM item LIMIT 1"))
            with pytest.raises(DatabaseBusy, match=r"m0002_second.*nothing was changed.*busy.*end transactions"):
                await ensure_migrated(f"{LATER}.service", database)
        assert await ensure_migrated(f"{LATER}.service", database)
    finally:
        await reader.close()


async def test_no_service_and_no_server(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        await ensure_migrated("nobody", tmp_path / "x.sqlite")
    with pytest.raises(DatabaseUnavailable):
        await ensure_migrated(SERVICE, PostgresLocation(host=str(tmp_path), name="n", user="u"))
    (tmp_path / "none.sqlite").write_text("this is no database" * 100)
    with pytest.raises(StorageError):
        await ensure_migrated(SERVICE, tmp_path / "none.sqlite")
