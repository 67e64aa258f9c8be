"""Fixtures of the tests of events: a database on both engines, and a producer over it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.breakwater.bootstrap import initialise
from cloud.clock import utc_now
from cloud.crypto.keyfile import write_secret
from cloud.storage import Location
from lab.postgres import database_location
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, plan_for
from tests.cloud.engines import ENGINES
from tests.cloud.events.support import SERVICE, Producer, opened


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A migrated database without events."""
    return database_location(request.param, SERVICE, tmp_path)


@pytest.fixture
async def producer(location: Location) -> AsyncIterator[Producer]:
    """One replica over the database."""
    async with opened(location) as engine:
        yield Producer(engine)


@pytest.fixture(scope="module")
def breakwater_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `cascade init` makes."""
    home = tmp_path_factory.mktemp("events")
    write_secret(home / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(home), utc_now))
    return home


@pytest.fixture
async def live(breakwater_home: Path, tmp_path: Path) -> AsyncIterator[Live]:
    """A Breakwater with listeners."""
    async with live_at(shutil.copytree(breakwater_home, tmp_path / "cloud")) as running:
        yield running
