"""A database of an earlier release is migrated: its rows are read as before, or changed as a migration says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.fabric.store import codes as code_store
from cloud.fabric.store import nodes as node_store
from cloud.fabric.store import stores_over
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.storage import Location, Mapper, ServiceEngine, Statement
from cloud.storage.migrate import ensure_migrated, known_ids
from lab.postgres import cluster
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.store import support

EARLIER = {
    "m0001_tables",
    "m0002_node_development",
    "m0003_superseded_asks",
    "m0004_challenges_by_code",
    "m0005_seats_of_revoked_nodes",
}
LATER_COLUMNS = {
    "node": ("development", "superseded_asked_at", "superseded_asked_generation"),
    "generation": ("seen_at", "seen_fingerprint", "trust_version", "device_issuer"),
    "code": (),
}
"""Columns of the earlier release whose field has a default."""


async def insert_earlier(engine: ServiceEngine, table: str, mapper: Mapper[Any], row: msgspec.Struct) -> None:
    """Insert a row as the earlier release did: with its columns only."""
    required = [field.name for field in msgspec.structs.fields(type(row)) if field.required]
    names = [*required, *LATER_COLUMNS[table]]
    values = mapper.values(row)
    # Names of columns, not values from outside.
    text = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f'{{{name}}}' for name in names)})"  # noqa: S608 (as above)
    await engine.fetch(Statement(text), **{name: values[name] for name in names})


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A database without tables. A synchronous fixture, because PostgreSQL is started outside an event loop."""
    return cluster().create() if request.param == "postgresql" else tmp_path / "fabric.sqlite"


async def migrated_to(ids: set[str], location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the migrations `ids` in an empty database."""
    assert known_ids("fabric") > ids
    with monkeypatch.context() as earlier:
        earlier.setattr("cloud.storage.migrate.known_ids", lambda _: ids)
        assert await ensure_migrated("fabric", location)


@asynccontextmanager
async def opened_at(location: Location) -> AsyncIterator[ServiceEngine]:
    """An engine of the database."""
    engine = ServiceEngine("fabric")
    engine.configure(location)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def test_rows_of_the_earlier_release_are_read_after_the_migration(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrated_to(EARLIER, location, monkeypatch)
    async with opened_at(location) as opened:
        await insert_earlier(opened, "code", code_store._CODE, support.code())
        await insert_earlier(opened, "node", node_store._NODE, support.node())
        await insert_earlier(opened, "generation", node_store._GENERATION, support.generation())
    assert await ensure_migrated("fabric", location)
    async with opened_at(location) as opened:
        stores = stores_over(opened)
        codes, nodes = stores.codes, stores.nodes
        assert await codes.find(support.CODE) == support.code()
        assert await nodes.find(support.NODES[0]) == support.node()
        generation = await nodes.find_generation(support.NODES[0], 1)
        assert generation == support.generation()
        assert (generation.lease_version, generation.lease_facts, generation.ek_name) == (1, "", "")


async def test_only_nodes_that_were_never_confirmed_and_hold_no_seat_lose_their_enrolled_values(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {each for each in known_ids("fabric") if each < "m0014"}
    await migrated_to(before, location, monkeypatch)
    lapsed = support.node(1, current_generation=0, seat_held=False)
    begun = support.node(2, current_generation=0, seat_held=True)
    released = support.node(3, current_generation=1, seat_held=False)
    async with opened_at(location) as opened:
        for node in (lapsed, begun, released):
            await insert_earlier(opened, "node", node_store._NODE, node)
            await EnrolledStore(opened).replace(node.tenant, node.id, ("disk", f"board of {node.id}"))
    assert await ensure_migrated("fabric", location)
    async with opened_at(location) as opened:
        assert await EnrolledStore(opened).nodes_with(support.TENANT, "disk") == [begun.id, released.id]
