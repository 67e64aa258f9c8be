"""Wiring: opens a service's database after its migrations, and closes it at the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.storage.engine import ServiceEngine
from cloud.storage.location import Location
from cloud.storage.migrate import ensure_migrated


@asynccontextmanager
async def open_database(service: str, location: Location) -> AsyncIterator[ServiceEngine]:
    """Open an engine of `service` over its migrated database. Each call makes its own engine.

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
