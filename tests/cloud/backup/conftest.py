"""Fixtures: an installation of `cascade init`, and one with a node that has activated."""

import asyncio
from pathlib import Path

import pytest

from cloud.backup.contents import Installation
from cloud.backup.format import ServicePart
from cloud.storage import Location
from lab.postgres import located
from tests.cloud.backup.support import back_up, moved, over, pin_of_installation
from tests.cloud.fabric.conftest import databases, home, machine, world
from tests.cloud.fabric.support import Machine

__all__ = ["databases", "home", "machine", "world"]


@pytest.fixture(scope="session")
def installed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation as `cascade init` makes it. No test changes it."""
    return moved(home, tmp_path_factory.mktemp("installed") / "cloud")


@pytest.fixture(scope="session")
def pin(installed: Installation) -> str:
    return asyncio.run(pin_of_installation(installed))


@pytest.fixture(scope="session")
def backup(installed: Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of `installed` for a recipient."""
    out = tmp_path_factory.mktemp("backup") / "cascade.backup"
    asyncio.run(back_up(installed, out))
    return out


@pytest.fixture
def filled_databases(databases: Path, machine: Machine) -> dict[ServicePart, Location]:
    """Both databases, in use, with an activated node."""
    services: tuple[ServicePart, ...] = ("fabric", "breakwater")
    return {service: located(databases, service) for service in services}


@pytest.fixture
def filled(installed: Installation, filled_databases: dict[ServicePart, Location]) -> Installation:
    """`installed` over `filled_databases`."""
    return over(installed, filled_databases)
