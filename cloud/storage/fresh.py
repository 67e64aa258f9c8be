"""A database that is made for the first time: empty before, one maker's alone meanwhile, empty again if it fails.

For `cascade init`. A file needs none of it: it lies in the folder that is being built, and goes with that. What is in a
server's database already is never touched: it is refused.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cloud.storage.errors import DatabaseInUse
from cloud.storage.location import Location, PostgresLocation

if TYPE_CHECKING:
    from cloud.storage.postgres import PostgresSession

_MAKER = "init"
"""Names the lock that two makers of one database would both want."""
_TABLES = "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = current_schema()"


@asynccontextmanager
async def made_fresh(location: Location) -> AsyncIterator[None]:
    """Hold an empty database while its first content is made; what a failed block has made in it is dropped.

    Other connections make it, with commits of their own: only the death of this process leaves something behind.

    Raises:
        DatabaseInUse: it has tables; nothing was changed. DatabaseBusy: another maker is at it.
        StorageError: it cannot be reached, or is not fit for use.
    """
    if not isinstance(location, PostgresLocation):
        yield
        return
    from cloud.storage.postgres import PostgresBackend

    backend = PostgresBackend(location, _MAKER)
    await backend.open()
    try:
        session = await backend.begin()
        try:
            found = await session.run(_TABLES, ())
            if found:
                raise DatabaseInUse(f"cannot use {location} for a new installation: it has tables already")
        except BaseException:  # a cancellation too gives the connection back
            await session.rollback()
            raise
        try:
            yield
        except BaseException:  # a cancellation too leaves nothing behind
            await _empty(session)
            raise
        await session.rollback()
    finally:
        await backend.close()


async def _empty(session: "PostgresSession") -> None:
    try:
        for row in await session.run(_TABLES, ()):
            await session.run(f"DROP TABLE {row['name']} CASCADE", ())
    except BaseException:  # as above
        await session.rollback()
        raise
    await session.commit()
