"""Fixtures: one cloud made by `cascade init` in each run, and new copies of its databases for each test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.breakwater.bootstrap import initialise as initialise_breakwater
from cloud.crypto.keyfile import write_secret
from cloud.fabric.bootstrap import initialise
from cloud.fabric.store import stores_over
from cloud.storage.database import open_database
from tests.cloud.breakwater.support import PASSPHRASE, START, Clock
from tests.cloud.breakwater.support import plan_for as breakwater_plan
from tests.cloud.fabric.asgi import Api, api_of
from tests.cloud.fabric.at_work import Running, running_at
from tests.cloud.fabric.publishing import Holders
from tests.cloud.fabric.support import ALICES_TOKEN, Machine, World, copied, plan_for, world_at
from tests.cloud.fabric.wire import Cloud, cloud_at


async def initialise_home(directory: Path) -> None:
    """Make an installation as `cascade init` does, with Alice's token. The directory has the passphrase."""
    ca = await initialise_breakwater(breakwater_plan(directory), lambda: START)
    await initialise(plan_for(directory, (ca.root, ca.nodes_ca, ca.services_ca)), lambda: START)
    async with open_database("fabric", directory / "fabric" / "database.sqlite") as engine:
        await stores_over(engine).tokens.insert(ALICES_TOKEN)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that `cascade init` has made."""
    directory = tmp_path_factory.mktemp("cloud")
    write_secret(directory / "passphrase", PASSPHRASE)
    asyncio.run(initialise_home(directory))
    return directory


@pytest.fixture
def databases(home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Copies of both databases in their state after `cascade init`. `located` finds them.

    They are on SQLite, unless `pytest.mark.parametrize("databases", ENGINES, indirect=True)` selects the engine.
    """
    return copied(home, tmp_path, getattr(request, "param", "sqlite"))


@pytest.fixture
async def world(home: Path, databases: Path) -> AsyncIterator[World]:
    """An open Fabric with a tenant that trusts the maker of the paper chips."""
    async with world_at(home, databases, Clock()) as running:
        yield running


@pytest.fixture
async def machine(world: World) -> Machine:
    """A machine that has activated and confirmed."""
    made = Machine(world)
    await made.join((await world.code()).secret)
    return made


@pytest.fixture
def holders(world: World, home: Path) -> Holders:
    """The holders of the offline keys of root and targets."""
    return Holders(world, home / "offline")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """Both services listening with real mutual TLS, from a separate installation."""
    async with cloud_at(tmp_path) as running:
        yield running


@pytest.fixture
async def at_work(home: Path, tmp_path: Path) -> AsyncIterator[Running]:
    """A Fabric that listens."""
    async with running_at(home, tmp_path) as running:
        yield running


@pytest.fixture
def api(world: World) -> Api:
    """Fabric's API, called without a socket."""
    return api_of(world)
