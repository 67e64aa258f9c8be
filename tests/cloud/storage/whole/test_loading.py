"""A database is filled under a mark, on both engines: refused until the end, and emptied by a repeat."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.storage import IntegrityError, Location, Statement
from cloud.storage.database import open_database, opened_unchanged
from cloud.storage.errors import DatabaseInUse, DatabaseRestoring
from cloud.storage.migrate import applied_ids, known_ids
from cloud.storage.whole.loading import (
    begin_loading,
    check_empty,
    end_loading,
    load,
    opened_for_loading,
    shapes_in,
    unmark,
)
from cloud.storage.whole.shapes import Kind, Shape
from cloud.storage.whole.snapshot import snapshot_of
from lab.postgres import cluster
from tests.cloud.engines import ENGINES
from tests.cloud.storage_sample.support import SERVICE

IDS = ("m0001_tables",)


@pytest.fixture(params=ENGINES)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A database without tables. On SQLite there is no file."""
    return cluster().create() if request.param == "postgresql" else tmp_path / "empty.sqlite"


def rows_for(shape: Shape, count: int) -> list[tuple[object, ...]]:
    """Rows with a value of each column's kind."""
    of: dict[Kind, Callable[[int], object]] = {
        "text": lambda n: f"{n:05}\N{SNOWMAN}'\"",
        "integer": lambda n: 2**31 - 1 - n,
        "boolean": lambda n: n % 2 == 0,
        "bytes": lambda n: bytes([0, 255, n % 256]),
        "time": lambda n: datetime(2026, 1, 1, 0, 0, 0, n, tzinfo=UTC),
    }
    return [tuple(of[column.kind](number) for column in shape.columns) for number in range(count)]


async def test_rows_are_loaded_and_the_mark_ends(empty: Location) -> None:
    await check_empty(SERVICE, empty)
    async with opened_for_loading(SERVICE, empty) as engine:
        (shape,) = [each for each in await begin_loading(SERVICE, empty, IDS, engine) if each.table == "widget"]
        rows = rows_for(shape, 500)
        await load(engine, shape, rows)
        with pytest.raises(IntegrityError):
            await load(engine, shape, rows[:1])
        assert await end_loading(SERVICE, empty, engine) == []
        assert {"restoring", "widget"} <= {each.table for each in await shapes_in(engine)}
    with pytest.raises(DatabaseRestoring, match="has not ended"):
        await applied_ids(empty)
    with pytest.raises(DatabaseRestoring):
        async with open_database(SERVICE, empty):
            raise AssertionError("the database is marked")
    with pytest.raises(DatabaseRestoring):
        async with opened_unchanged(SERVICE, empty):
            raise AssertionError("the database is marked")
    async with opened_for_loading(SERVICE, empty) as engine:
        await unmark(engine)
        await unmark(engine)
    async with snapshot_of(empty) as snapshot:
        found = [row async for page in snapshot.rows(shape) for row in page]
    assert sorted(found) == sorted(rows)
    async with open_database(SERVICE, empty):
        pass
    with pytest.raises(DatabaseInUse):
        await check_empty(SERVICE, empty)


async def test_a_repeat_begins_again_and_migrates(empty: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        async with opened_for_loading(SERVICE, empty) as engine:
            (shape,) = [each for each in await begin_loading(SERVICE, empty, IDS, engine) if each.table == "widget"]
            await load(engine, shape, rows_for(shape, 3))
    await check_empty(SERVICE, empty)
    ran: list[str] = []

    async def migrated(_service: str, name: str, _engine: object) -> None:
        ran.append(name)

    monkeypatch.setattr("cloud.storage.migrate.known_ids", lambda _: {*IDS, "m0002_later"})
    monkeypatch.setattr("cloud.storage.migrate._migrate", migrated)
    async with opened_for_loading(SERVICE, empty) as engine:
        assert await end_loading(SERVICE, empty, engine) == ran == ["m0002_later"]


async def test_a_database_with_tables_is_not_touched(empty: Location) -> None:
    async with open_database(SERVICE, empty, is_new=True):
        pass
    async with opened_for_loading(SERVICE, empty) as engine:
        with pytest.raises(DatabaseInUse):
            await begin_loading(SERVICE, empty, IDS, engine)
    async with open_database(SERVICE, empty):
        pass


async def test_numbers_of_rows_continue_after_those_of_the_backup(empty: Location) -> None:
    """A sequence of PostgreSQL that begins again would give numbers that rows have."""
    service = "breakwater"
    async with opened_for_loading(service, empty) as engine:
        shapes = await begin_loading(service, empty, sorted(known_ids(service)), engine)
        (shape,) = [each for each in shapes if each.table == "event_outbox"]
        await load(engine, shape, rows_for(shape, 3))
        await end_loading(service, empty, engine)
        await unmark(engine)
    async with open_database(service, empty) as engine:
        columns = [column.name for column in shape.columns if column.name != "number"]
        (made,) = await engine.fetch(
            Statement(
                f"INSERT INTO event_outbox ({', '.join(columns)}) "  # noqa: S608  (the catalog's names)
                f"SELECT {', '.join(columns)} FROM event_outbox WHERE number = 2147483645 RETURNING number"
            )
        )
        assert made["number"] == 2**31
