"""Fixtures: one initialised issuer for the whole run, and a copy of its database for each test, on both engines."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.breakwater.bootstrap import initialise
from cloud.clock import utc_now
from cloud.crypto.keyfile import write_secret
from cloud.storage import Location
from lab.postgres import postgres_copy
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, START, Clock, Issuer, issuer_at, plan_for
from tests.cloud.engines import ENGINES


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `cascade init` makes, with a fixed date."""
    directory = tmp_path_factory.mktemp("cloud")
    write_secret(directory / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(directory), lambda: START))
    return directory


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Location:
    """A copy of the database that `cascade init` makes, on SQLite or PostgreSQL."""
    made = home / "breakwater" / "database.sqlite"
    if request.param == "postgresql":
        return postgres_copy("breakwater", made)
    return Path(shutil.copy(made, tmp_path / "database.sqlite"))


@pytest.fixture
async def issuer(home: Path, database: Location) -> AsyncIterator[Issuer]:
    """A running issuer."""
    async with issuer_at(home, database, Clock()) as running:
        yield running


@pytest.fixture(scope="session")
def live_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `cascade init` makes, with today's date, because a listener uses the machine's clock."""
    directory = tmp_path_factory.mktemp("live")
    write_secret(directory / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(directory), utc_now))
    shutil.copy(directory / "breakwater" / "database.sqlite", directory / "pristine.sqlite")
    return directory


@pytest.fixture
async def live(live_home: Path) -> AsyncIterator[Live]:
    """A Breakwater with listeners, over a fresh copy of the database from `cascade init`."""
    shutil.copy(live_home / "pristine.sqlite", live_home / "breakwater" / "database.sqlite")
    async with live_at(live_home) as running:
        yield running
