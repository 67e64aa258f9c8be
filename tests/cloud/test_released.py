"""The databases of each release: today's code migrates them on both engines, and its stores read them.

PostgreSQL gets them as an operator would move them: through a backup and a restore. `make drills PART=released` serves
the machine of the release from both engines.
"""

import asyncio
from pathlib import Path

import pytest

from cloud.backup.contents import Installation, read_installation
from cloud.backup.format import ServicePart
from cloud.crypto.keyfile import read_secret
from cloud.fabric.store import stores_over
from cloud.storage import Location
from cloud.storage.database import open_database
from cloud.storage.migrate import applied_ids, ensure_migrated, known_ids
from lab.postgres import cluster
from protocol.ids import NodeId
from tests.cloud.backup.support import (
    back_up,
    content_of,
    databases_of,
    order_of,
    over,
    pin_of_installation,
    restored,
    unchanged,
)
from tests.cloud.engines import ENGINES
from tests.released.unpack import RELEASES, Released, unpack

SERVICES: tuple[ServicePart, ...] = ("fabric", "breakwater")


@pytest.fixture(params=ENGINES)
def servers(request: pytest.FixtureRequest) -> dict[ServicePart, Location]:
    """Two empty PostgreSQL databases; nothing for SQLite."""
    return {service: cluster().create() for service in SERVICES} if request.param == "postgresql" else {}


async def moved(installation: Installation, directory: Path, servers: dict[ServicePart, Location]) -> Installation:
    """Back up, and restore into the databases."""
    await back_up(installation, directory / "backup")
    passphrase = read_secret(installation.directory / "secrets" / "passphrase")
    pin = await pin_of_installation(installation)
    order = order_of(
        directory / "backup", directory / "restored", pin, key_passphrase=passphrase.strip(), databases=servers
    )
    await restored(order)
    return over(read_installation(directory / "restored"), servers)


async def check_node(installation: Installation, found: Released) -> None:
    """Fabric's stores know the node, as the release has left it."""
    async with open_database("fabric", installation.database("fabric")) as engine:
        nodes = stores_over(engine).nodes
        node, generations = await nodes.find(NodeId(found.node)), await nodes.generations(NodeId(found.node))
    assert node is not None
    assert (node.standing, node.current_generation) == ("active", found.generation)
    assert {row.number for row in generations} == set(range(1, found.generation + 1))


@pytest.mark.parametrize("release", RELEASES)
async def test_the_databases_of_a_release_are_migrated_and_read(
    tmp_path: Path, release: str, servers: dict[ServicePart, Location]
) -> None:
    found = await asyncio.to_thread(unpack, release, tmp_path)
    installation = read_installation(tmp_path / "cloud")
    before = unchanged(await content_of(databases_of(installation)))
    if servers:
        installation = await moved(installation, tmp_path, servers)
    for service, location in databases_of(installation).items():
        await ensure_migrated(service, location)
        assert await applied_ids(location) == known_ids(service)
    after = await content_of(databases_of(installation))
    assert {table: len(after[table]) for table in before} == {table: len(rows) for table, rows in before.items()}
    await check_node(installation, found)
