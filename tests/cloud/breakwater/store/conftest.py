"""Fixtures: the stores over a migrated, empty database, on both engines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.breakwater.store import Stores
from cloud.storage import Location, ServiceEngine
from lab.postgres import database_location
from tests.cloud.breakwater.support import stores_of
from tests.cloud.engines import ENGINES


@pytest.fixture(params=ENGINES)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty database. The fixture is not async, because PostgreSQL starts outside of an event loop."""
    return database_location(request.param, "breakwater", tmp_path)


@pytest.fixture
async def stores(empty_database: Location) -> AsyncIterator[Stores]:
    """Stores over an open engine. The database has only the counters."""
    engine = ServiceEngine("breakwater")
    engine.configure(empty_database)
    await engine.open()
    try:
        made = stores_of(engine)
        await made.authorities.make_counter()
        yield made
    finally:
        await engine.close()
