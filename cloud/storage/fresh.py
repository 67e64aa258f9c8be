"""A database that is made for the first time: empty before, one maker's alone meanwhile, empty again if it fails.

For `cascade init`. A file needs none of it: it lies in the folder that is being built, and goes with that. What is in a
server's database already is never touched: it is refused.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.storage.errors import DatabaseInUse
from cloud.storage.location import Location, PostgresLocation

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
            if found := await session.run(_TABLES, ()):
                raise DatabaseInUse(f"cannot make {location}: it has tables ({found[0]['name']}, ...); give an empty one")
            try:
                yield
            except BaseException:  # a cancellation too leaves nothing behind
                for row in await session.run(_TABLES, ()):
                    await session.run(f"DROP TABLE {row['name']} CASCADE", ())
                await session.commit()
                raise
        finally:
            await session.rollback()
    finally:
        await backend.close()
