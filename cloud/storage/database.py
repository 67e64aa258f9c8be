"""The open database of a service: migrated, opened, and closed at the end. For wiring."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.storage.engine import ServiceEngine
from cloud.storage.location import Location
from cloud.storage.migrate import ensure_migrated


@asynccontextmanager
async def open_database(service: str, location: Location) -> AsyncIterator[ServiceEngine]:
    """An engine of `service` over its migrated database. Each call makes an engine of its own.

    Raises:
        StorageError: see `cloud.storage.migrate.ensure_migrated`.
    """
    await ensure_migrated(service, location)
    engine = ServiceEngine(service)
    engine.configure(location)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()
