"""Adapter: hold an empty database while `cascade init` makes its content, and empty it again if that fails.

On PostgreSQL, a lock excludes other makers meanwhile. A database that has tables is refused and never changed. An
SQLite file needs none of this: it is in the folder that `cascade init` builds, and is removed with the folder.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cloud.storage.errors import DatabaseInUse
from cloud.storage.location import Location, PostgresLocation
from cloud.storage.locks import WHOLE
from cloud.storage.waits import WAIT_SECONDS

if TYPE_CHECKING:
    from cloud.storage.postgres import PostgresSession

_MAKER = "init"
"""Name of the lock that excludes a second maker of the same database."""
_TABLES = "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = current_schema()"


@asynccontextmanager
async def made_fresh(location: Location) -> AsyncIterator[None]:
    """Hold an empty database while its first content is made. If the block fails, all tables are dropped.

    Other connections make the content, with their own commits. So tables stay behind only if this process is killed.

    Raises:
        DatabaseInUse: the database has tables; nothing was changed.
        DatabaseBusy: another maker holds the database.
        StorageError: the database cannot be reached, or does not meet our requirements.
    """
    if not isinstance(location, PostgresLocation):
        yield
        return
    from cloud.storage.postgres import PostgresBackend

    backend = PostgresBackend(location, _MAKER, patient=True)  # the transaction is idle while the content is made
    await backend.open()
    try:
        session = await backend.begin(WHOLE, WAIT_SECONDS)
        try:
            found = await session.run(_TABLES, ())
            if found:
                raise DatabaseInUse(f"cannot use {location} for a new installation: it has tables already")
        except BaseException:  # also for a cancellation: give the connection back
            await session.rollback()
            raise
        try:
            yield
        except BaseException:  # also for a cancellation: leave nothing behind
            await _empty(session)
            raise
        await session.rollback()
    finally:
        await backend.close()


async def _empty(session: "PostgresSession") -> None:
    try:
        for row in await session.run(_TABLES, ()):
            await session.run(f"DROP TABLE {row['name']} CASCADE", ())
    except BaseException:  # also for a cancellation
        await session.rollback()
        raise
    await session.commit()
