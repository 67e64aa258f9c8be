"""`cloud.storage.database`: the database is migrated, opened, and closed at the end."""

from pathlib import Path

import anyio
import pytest

from cloud.storage import Location, StorageError
from cloud.storage.database import open_database
from cloud.storage.errors import DatabaseMissing
from cloud.storage.migrate import applied_ids
from cloud.storage.statement import Statement
from lab.postgres import cluster, database_location
from tests.cloud.engines import ENGINES

_TABLES = Statement("SELECT COUNT(*) AS n FROM authority")


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


@pytest.fixture(params=ENGINES)
def lost(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A SQLite file that is missing, or a PostgreSQL database without tables."""
    return cluster().create() if request.param == "postgresql" else tmp_path / "lost.sqlite"


async def test_the_database_is_migrated_and_open_and_closed_at_the_end(location: Location) -> None:
    for _ in range(2):
        async with open_database("breakwater", location) as engine:
            assert await engine.fetch(_TABLES) == [{"n": 0}]
        with pytest.raises(StorageError):
            await engine.fetch(_TABLES)


async def test_a_lost_database_is_refused_and_not_made_again(lost: Location, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DatabaseMissing, match=r"is missing or empty; restore its backup"):
            async with open_database("breakwater", lost):
                raise AssertionError("an empty database was opened")
    assert await applied_ids(lost) == set()
    assert [path async for path in anyio.Path(tmp_path).iterdir()] == []
    async with open_database("breakwater", lost, is_new=True) as engine:
        assert await engine.fetch(_TABLES) == [{"n": 0}]
    async with open_database("breakwater", lost):
        pass


async def test_a_fault_inside_closes_it_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a fault"):
        async with open_database("breakwater", tmp_path / "database.sqlite", is_new=True) as engine:
            raise ValueError("a fault")
    with pytest.raises(StorageError):
        await engine.fetch(_TABLES)


async def test_each_call_has_an_engine_of_its_own(tmp_path: Path) -> None:
    async with (
        open_database("breakwater", tmp_path / "one.sqlite", is_new=True) as one,
        open_database("breakwater", tmp_path / "two.sqlite", is_new=True) as two,
    ):
        assert one is not two
        await one.fetch(Statement("INSERT INTO counter (name, value) VALUES ('authorities', 7)"))
        count = Statement("SELECT COUNT(*) AS n FROM counter")
        assert [await each.fetch(count) for each in (one, two)] == [[{"n": 1}], [{"n": 0}]]
