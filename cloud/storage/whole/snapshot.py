"""Adapter: read every table of a database as it is at one moment, while services write to it.

A snapshot is a read transaction. SQLite keeps the old pages in its log as long as the snapshot is open, so the log
grows with what the services write meanwhile. PostgreSQL keeps the old row versions. A snapshot takes no lock that a
service waits for, and stores no copy of the data.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud.storage.errors import DatabaseMissing
from cloud.storage.location import Location
from cloud.storage.sqlite import fault, run
from cloud.storage.statement import Row
from cloud.storage.whole.shapes import ROWS_AT_ONCE, Shape, Snapshot, catalog, migrations_of


class SqliteSnapshot:
    """The tables of an SQLite file. Queries run in threads, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def run(self, sql: str) -> list[Row]:
        """See `Snapshot.run`."""
        return await asyncio.to_thread(run, self._connection, sql, ())

    async def shapes(self) -> list[Shape]:
        """See `Snapshot.shapes`."""
        return await catalog("sqlite", self.run)

    async def migrations(self) -> list[str]:
        """See `Snapshot.migrations`."""
        return await migrations_of(self.run)

    async def rows(self, shape: Shape, where: str = "") -> AsyncIterator[list[tuple[Any, ...]]]:
        """See `Snapshot.rows`."""
        try:
            cursor = self._connection.execute(shape.select(where))
            while page := await asyncio.to_thread(cursor.fetchmany, ROWS_AT_ONCE):
                yield page
        except sqlite3.Error as error:
            raise fault(error, f"cannot read the table {shape.table}") from error


@asynccontextmanager
async def snapshot_of(location: Location) -> AsyncIterator[Snapshot]:
    """Open a snapshot of a database. Its moment is before the block begins.

    Raises:
        DatabaseMissing: there is no such SQLite file; nothing is made.
        StorageError: the database cannot be read. Errors of the block's own queries are StorageErrors too.
    """
    if isinstance(location, Path):
        async with _sqlite(location) as snapshot:
            yield snapshot
        return
    from cloud.storage.whole.postgres_snapshot import postgres_snapshot

    async with postgres_snapshot(location) as snapshot:
        yield snapshot


@asynccontextmanager
async def _sqlite(path: Path) -> AsyncIterator[Snapshot]:
    if not await asyncio.to_thread(path.exists):
        raise DatabaseMissing(f"cannot read the database {path}: there is no such file")
    connection = await asyncio.to_thread(_connect, path)
    try:
        run(connection, "PRAGMA query_only = ON", ())
        run(connection, "BEGIN", ())
        run(connection, "SELECT 1 FROM sqlite_master LIMIT 1", ())  # the first read fixes the moment
        yield SqliteSnapshot(connection)
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Open an existing file. The mode is not read-only, because a reader of the log may have to make the log's index."""
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            detect_types=sqlite3.PARSE_DECLTYPES,
        )
    except sqlite3.Error as error:
        raise fault(error, f"cannot open the database {path}") from error
