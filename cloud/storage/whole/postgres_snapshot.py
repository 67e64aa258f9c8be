"""Adapter: a snapshot of a PostgreSQL database, in a transaction with REPEATABLE READ on a connection of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from cloud.storage.location import PostgresLocation
from cloud.storage.pool import DRIVER_ERRORS
from cloud.storage.postgres import PostgresBackend
from cloud.storage.postgres_errors import cause_of, fault
from cloud.storage.statement import Row
from cloud.storage.whole.shapes import ROWS_AT_ONCE, Shape, Snapshot, catalog, migrations_of

_PATIENT = "SET LOCAL idle_in_transaction_session_timeout = 0"
"""The transaction is idle while another database is read, which takes as long as it takes."""


@contextmanager
def _translated() -> Iterator[None]:
    """Turn exceptions of the driver into StorageErrors."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise fault(error) from cause_of(error)


class PostgresSnapshot:
    """The tables of a PostgreSQL database."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def run(self, sql: str) -> list[Row]:
        """See `Snapshot.run`."""
        with _translated():
            return [dict(row) for row in await self._connection.fetch(sql)]

    async def shapes(self) -> list[Shape]:
        """See `Snapshot.shapes`."""
        return await catalog("postgres", self.run)

    async def migrations(self) -> list[str]:
        """See `Snapshot.migrations`."""
        return await migrations_of(self.run)

    async def rows(self, shape: Shape, where: str = "") -> AsyncIterator[list[tuple[Any, ...]]]:
        """See `Snapshot.rows`."""
        with _translated():
            cursor = await self._connection.cursor(shape.select(where))
        while True:
            with _translated():
                page = await cursor.fetch(ROWS_AT_ONCE)
            if not page:
                return
            yield [tuple(row) for row in page]


@asynccontextmanager
async def postgres_snapshot(location: PostgresLocation) -> AsyncIterator[Snapshot]:
    """Open a snapshot. Raises StorageError."""
    connection = await PostgresBackend(location, "backup", patient=True).connect()
    try:
        with _translated():
            await connection.transaction(isolation="repeatable_read", readonly=True).start()
            await connection.execute(_PATIENT)
            await connection.fetch("SELECT 1 FROM pg_class LIMIT 1")  # the first query fixes the moment
        yield PostgresSnapshot(connection)
    finally:
        connection.terminate()
