"""Fixtures: the stores of Fabric over an empty database, on both engines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.fabric.store import Stores, stores_over
from cloud.storage import Location, ServiceEngine
from lab.postgres import database_location
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.recorded import Recorded


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A synchronous fixture, because the PostgreSQL server is started outside an event loop."""
    return database_location(request.param, "fabric", tmp_path)


@pytest.fixture
def recorded() -> Recorded:
    """The events that the stores add."""
    return Recorded()


@pytest.fixture
async def stores(database: Location, recorded: Recorded) -> AsyncIterator[Stores]:
    engine = ServiceEngine("fabric")
    engine.configure(database)
    await engine.open()
    try:
        yield stores_over(engine, recorded)
    finally:
        await engine.close()
