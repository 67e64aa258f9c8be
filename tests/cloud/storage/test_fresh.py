"""`cloud.storage.fresh`: a failed making leaves nothing behind, and existing tables are never touched."""

import asyncio
from pathlib import Path

import pytest

from cloud.storage import PostgresLocation, ServiceEngine, Statement, StorageError
from cloud.storage.errors import DatabaseBusy, DatabaseInUse
from cloud.storage.fresh import made_fresh
from cloud.storage.migrate import applied_ids, ensure_migrated, known_ids
from lab.postgres import cluster, postgres_database

pytestmark = pytest.mark.slow

COUNT = Statement("SELECT count(*) AS n FROM pg_tables WHERE schemaname = current_schema()")


@pytest.fixture
def empty() -> PostgresLocation:
    return cluster().create()


async def tables(location: PostgresLocation) -> int:
    engine = ServiceEngine("look")
    engine.configure(location)
    await engine.open()
    try:
        return int((await engine.fetch(COUNT))[0]["n"])
    finally:
        await engine.close()


async def test_what_was_made_stays(empty: PostgresLocation) -> None:
    async with made_fresh(empty):
        await ensure_migrated("fabric", empty)
    assert await applied_ids(empty) == known_ids("fabric") != set()


async def test_a_failure_leaves_the_database_as_empty_as_it_was(empty: PostgresLocation) -> None:
    with pytest.raises(StorageError, match="disk"):
        async with made_fresh(empty):
            await ensure_migrated("fabric", empty)
            assert await tables(empty) > 1
            raise StorageError("disk full")
    assert await tables(empty) == 0
    async with made_fresh(empty):
        pass


async def test_a_database_that_has_tables_is_refused_and_left_alone() -> None:
    used = await asyncio.to_thread(postgres_database, "breakwater")
    before = await tables(used)
    with pytest.raises(DatabaseInUse, match="has tables"):
        async with made_fresh(used):
            raise AssertionError("it was entered")
    assert await tables(used) == before > 1


async def test_two_makers_of_one_database(empty: PostgresLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.storage.fresh.WAIT_SECONDS", 0.2)
    async with made_fresh(empty):
        await ensure_migrated("fabric", empty)
        with pytest.raises(DatabaseBusy):
            async with made_fresh(empty):
                raise AssertionError("it was entered")
    assert await applied_ids(empty) == known_ids("fabric")


def test_a_file_needs_none_of_it(tmp_path: Path) -> None:
    async def make() -> None:
        async with made_fresh(tmp_path / "database.sqlite"):
            pass

    asyncio.run(make())
    assert list(tmp_path.iterdir()) == []
