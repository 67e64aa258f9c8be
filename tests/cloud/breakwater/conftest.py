"""One initialised issuer a run (its CAs and its empty, migrated database), and a fresh copy of the database a test."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.breakwater.bootstrap import initialise
from cloud.keyfile import write_secret
from tests.cloud.breakwater.support import PASSPHRASE, START, Clock, Issuer, issuer_at, plan_for


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cascade init` leaves behind for the issuer."""
    directory = tmp_path_factory.mktemp("cloud")
    write_secret(directory / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(directory), lambda: START))
    return directory


@pytest.fixture
def database(home: Path, tmp_path: Path) -> Path:
    """A copy of the database of after `cascade init`."""
    return Path(shutil.copy(home / "breakwater" / "database.sqlite", tmp_path / "database.sqlite"))


@pytest.fixture
async def issuer(home: Path, database: Path) -> AsyncIterator[Issuer]:
    """An issuer at work."""
    async with issuer_at(home, database, Clock()) as running:
        yield running
