"""A snapshot has the rows of one moment, on both engines, while others write."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cloud.storage import Location, ServiceEngine
from cloud.storage.errors import DatabaseMissing, StorageError
from cloud.storage.whole.shapes import Snapshot
from cloud.storage.whole.snapshot import snapshot_of
from lab.postgres import database_location
from tests.cloud.engines import ENGINES
from tests.cloud.storage_sample.support import INSERT, NOW, SERVICE

COUNT = 450
"""Rows of more than two pages."""


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, SERVICE, tmp_path)


async def put(location: Location, names: list[str]) -> None:
    engine = ServiceEngine("writer")
    engine.configure(location)
    await engine.open()
    try:
        async with engine.transaction():
            for name in names:
                await engine.fetch(INSERT, id=name, label="", made_at=NOW)
    finally:
        await engine.close()


async def rows_of(snapshot: Snapshot, table: str) -> list[tuple[Any, ...]]:
    (shape,) = [each for each in await snapshot.shapes() if each.table == table]
    return [row async for page in snapshot.rows(shape) for row in page]


async def test_later_rows_are_not_in_a_snapshot(database: Location) -> None:
    names = [f"w{number:04}" for number in range(COUNT)]
    await put(database, names)
    async with snapshot_of(database) as snapshot:
        await put(database, ["late"])
        rows = await rows_of(snapshot, "widget")
    assert sorted(row[0] for row in rows) == names
    assert {value for row in rows for value in row if isinstance(value, datetime)} >= {NOW}
    async with snapshot_of(database) as snapshot:
        assert len(await rows_of(snapshot, "widget")) == COUNT + 1


async def test_the_tables_without_that_of_the_migrations(database: Location) -> None:
    async with snapshot_of(database) as snapshot:
        assert [shape.table for shape in await snapshot.shapes()] == ["part", "widget"]
        assert await snapshot.migrations() == ["m0001_tables"]
        with pytest.raises(StorageError):
            await snapshot.run("SELECT nothing FROM nowhere")


async def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing):
        async with snapshot_of(tmp_path / "lost.sqlite"):
            raise AssertionError("there is no database")
    assert not await asyncio.to_thread((tmp_path / "lost.sqlite").exists)
