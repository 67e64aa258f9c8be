"""What the tests of the storage port share: statements on the widgets, and an engine that is open for one test."""

import asyncio
import sqlite3
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from piccolo.query.functions import Count

from cloud.storage import Location, ServiceEngine, Statement, compiled, param
from cloud.storage.sqlite import SqliteBackend
from tests.cloud.storage_sample.tables import Widget

ENGINE = ServiceEngine("storage_sample")

SERVICE = "tests.cloud.storage_sample"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
# By hand: the columns that are left out get the database's own defaults.
INSERT = Statement("INSERT INTO widget (id, label, made_at) VALUES ({id}, {label}, {made_at})")
SELECT = compiled(Widget.select().where(Widget.id == param("id")))
COUNT = compiled(Widget.select(Count(alias="n")))
IDS = compiled(Widget.select(Widget.id).order_by(Widget.id).limit(1000))


def on(database: Location, test: Coroutine[Any, Any, None]) -> None:
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
    """The number of widgets, as this context sees it."""
    row = await ENGINE.fetch_one(COUNT)
    assert row is not None
    return int(row["n"])


async def ids() -> list[str]:
    """The widgets' ids in order."""
    return [str(row["id"]) for row in await ENGINE.fetch(IDS)]


async def add(key: str, label: str = "") -> None:
    """One widget, in the task's transaction or in one of its own."""
    await ENGINE.fetch(INSERT, id=key, label=label, made_at=NOW)


async def turns(number: int = 20) -> None:
    """Let the other tasks run on until they wait for something real."""
    for _ in range(number):
        await asyncio.sleep(0)


def sqlite_writer() -> sqlite3.Connection:
    """The connection on which the open engine writes to a SQLite file."""
    assert isinstance(ENGINE.backend, SqliteBackend)
    return ENGINE.backend._writer
