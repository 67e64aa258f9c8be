"""The queries of adoption and of the order to renew, on both engines."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud.fabric.store import Stores, stores_over
from cloud.fabric.store.adoption import TrustReport
from cloud.fabric.store.installation import sessions_until
from cloud.fabric.tuf.current_trust import RenewalOrder
from cloud.storage import Location, ServiceEngine, Statement
from lab.postgres import database_location
from protocol.ids import NodeId, make_id
from tests.cloud.engines import ENGINES

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TENANT = make_id("ten", 1, bytes(10))
NODES = [NodeId(make_id("node", number, bytes(10))) for number in range(1, 5)]
_NODE = Statement(
    "INSERT INTO node (id, tenant, ek_hash, standing, current_generation, last_generation, standing_at, created_at) "
    "VALUES ({}, {}, {}, {}, {}, {}, {}, {})"
)
_GENERATION = Statement("INSERT INTO generation (id, node, number, created_at) VALUES ({}, {}, {}, {})")


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "fabric", tmp_path)


@pytest.fixture
async def stores(database: Location) -> AsyncIterator[Stores]:
    """Four nodes, each in its first generation; the last one is revoked, the third suspended."""
    engine = ServiceEngine("fabric")
    engine.configure(database)
    await engine.open()
    try:
        for node, standing in zip(NODES, ("active", "active", "suspended", "revoked"), strict=True):
            await engine.fetch(_NODE, node, TENANT, node, standing, 1, 1, NOW, NOW)
            await engine.fetch(_GENERATION, f"{node}.1", node, 1, NOW)
        yield stores_over(engine)
    finally:
        await engine.close()


async def counts(stores: Stores) -> set[tuple[int, str, int]]:
    return {entry async for entry in stores.adoption.counts()}


async def test_adoption_is_counted_and_named(stores: Stores) -> None:
    assert await counts(stores) == {(0, "", 3)}
    async with stores.transaction():
        await stores.adoption.write({f"{NODES[0]}.1": TrustReport(2, "aa"), f"{NODES[1]}.1": TrustReport(3, "")}, 2)
    assert await counts(stores) == {(2, "aa", 1), (0, "", 2)}
    async with stores.transaction():
        await stores.adoption.write({f"{NODES[0]}.1": TrustReport(1, "bb")}, 2)
    assert await counts(stores) == {(2, "bb", 1), (0, "", 2)}
    assert [row.node for row in await stores.adoption.behind(2, "", 10)] == NODES[1:3]
    assert [row.node for row in await stores.adoption.behind(2, "", 1)] == NODES[1:2]
    assert [row.node for row in await stores.adoption.behind(2, NODES[1], 10)] == NODES[2:3]
    (row,) = await stores.adoption.of_issuer("bb", "", 10)
    assert (row.node, row.tenant, row.trust_version, row.device_issuer, row.seen_at) == (
        NODES[0],
        TENANT,
        2,
        "bb",
        None,
    )


async def test_only_active_nodes_are_woken_and_each_once(stores: Stores) -> None:
    async with stores.transaction():
        assert await stores.adoption.wake("", 1) == NODES[:1]
        assert await stores.adoption.wake(NODES[0], 10) == NODES[1:2]
        assert await stores.adoption.wake(NODES[1], 10) == []
    assert [await stores.nodes.cursor(node) for node in NODES] == [1, 1, 0, 0]


async def test_an_order_is_replaced_and_advanced_by_compare_and_set(stores: Stores) -> None:
    assert await stores.installation.renewal_order() is None
    order = RenewalOrder(after=NOW, reason="é", set_at=NOW, starts_at=NOW, spread_seconds=1, nodes=2)
    other = RenewalOrder(after=NOW, reason="other", set_at=NOW, starts_at=NOW, spread_seconds=1, nodes=2)
    await stores.installation.set_renewal_order(other)
    await stores.installation.set_renewal_order(order)
    assert await stores.installation.renewal_order() == order
    assert not await stores.installation.advance_renewal_order(other, order)
    assert await stores.installation.advance_renewal_order(order, other)
    assert await stores.installation.renewal_order() == other


async def test_the_end_of_an_issuers_sessions_only_moves_on(stores: Stores) -> None:
    for hours in (2, 1, 3, 0):
        await stores.installation.raise_sessions_until("aa", NOW + timedelta(hours=hours))
    await stores.installation.raise_sessions_until("bb", NOW)
    kept = sessions_until(await stores.installation.read_all())
    assert kept == {"aa": NOW + timedelta(hours=3), "bb": NOW}


async def test_an_empty_repository_has_no_version(stores: Stores) -> None:
    assert await stores.repository.newest("targets") == 0
