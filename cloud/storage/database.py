"""Wiring: opens a service's database after its migrations, and closes it at the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.storage.engine import ServiceEngine
from cloud.storage.errors import DatabaseMissing
from cloud.storage.location import Location
from cloud.storage.migrate import applied_ids, ensure_migrated, missing_ids


@asynccontextmanager
async def open_database(service: str, location: Location, *, is_new: bool = False) -> AsyncIterator[ServiceEngine]:
    """Open an engine of `service` over its migrated database. Each call makes its own engine.

    Only with `is_new` are the first tables made. A service whose database is lost has to stop: an empty database
    knows no revoked certificate.

    Raises:
        DatabaseMissing: the database has no tables, and `is_new` is False. Nothing is made.
        StorageError: see `cloud.storage.migrate.ensure_migrated`.
    """
    if not is_new and not await applied_ids(location):
        raise DatabaseMissing(
            f"cannot use the database {location}: it is missing or empty; restore its backup, or correct its address "
            "in the settings"
        )
    await ensure_migrated(service, location)
    engine = ServiceEngine(service)
    engine.configure(location)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def opened_unchanged(service: str, location: Location) -> AsyncIterator[tuple[ServiceEngine, list[str]]]:
    """Open an engine that only reads, with the ids of the migrations that are missing. Creates and changes nothing.

    Raises StorageError: the database is missing, cannot be read, or is of another version of the code.
    """
    engine = ServiceEngine(f"check_{service}")
    engine.configure(location, unchanged=True)
    await engine.open()
    try:
        yield engine, await missing_ids(service, location, engine)
    finally:
        await engine.close()
