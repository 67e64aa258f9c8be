"""`cloud.fabric.store.adoption`: which trust each node uses, and which nodes a renewal order wakes."""

import pytest

from cloud.fabric.store import Stores
from cloud.fabric.store.adoption import TrustReport
from tests.cloud.fabric.store.support import NODES, TENANT, generation, node


@pytest.fixture
async def fleet(stores: Stores) -> Stores:
    """Four nodes, each in its first generation. The third is suspended, the last revoked."""
    for number, standing in enumerate(("active", "active", "suspended", "revoked"), 1):
        await stores.nodes.insert(node(number, standing=standing), "activated")
        await stores.nodes.insert_generation(generation(number))
    return stores


async def counts(stores: Stores) -> set[tuple[int, str, int]]:
    return {entry async for entry in stores.adoption.counts()}


async def test_adoption_is_counted_and_named(fleet: Stores) -> None:
    assert await counts(fleet) == {(0, "", 3)}
    async with fleet.transaction():
        await fleet.adoption.write({f"{NODES[0]}.1": TrustReport(2, "aa"), f"{NODES[1]}.1": TrustReport(3, "")}, 2)
    assert await counts(fleet) == {(2, "aa", 1), (0, "", 2)}
    async with fleet.transaction():
        await fleet.adoption.write({f"{NODES[0]}.1": TrustReport(1, "bb")}, 2)
    assert await counts(fleet) == {(2, "bb", 1), (0, "", 2)}
    assert [row.node for row in await fleet.adoption.behind(2, "", 10)] == NODES[1:3]
    assert [row.node for row in await fleet.adoption.behind(2, "", 1)] == NODES[1:2]
    assert [row.node for row in await fleet.adoption.behind(2, NODES[1], 10)] == NODES[2:3]
    (row,) = await fleet.adoption.of_issuer("bb", "", 10)
    assert (row.node, row.tenant, row.trust_version, row.device_issuer, row.seen_at) == (
        NODES[0],
        TENANT,
        2,
        "bb",
        None,
    )


async def test_only_active_nodes_are_woken_and_each_once(fleet: Stores) -> None:
    async with fleet.transaction():
        assert await fleet.adoption.wake("", 1) == NODES[:1]
        assert await fleet.adoption.wake(NODES[0], 10) == NODES[1:2]
        assert await fleet.adoption.wake(NODES[1], 10) == []
    assert [await fleet.nodes.cursor(each) for each in NODES] == [1, 1, 0, 0]


async def test_a_fleet_is_walked_in_stretches(fleet: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.fabric.store.adoption.STRETCH_NODES", 1)
    assert [entry async for entry in fleet.adoption.counts()] == 3 * [(0, "", 1)]
    assert [row.node for row in await fleet.adoption.behind(1, "", 2)] == NODES[:2]
    assert [row.node for row in await fleet.adoption.of_issuer("", "", 10)] == NODES[:3]


async def test_neither_an_earlier_generation_nor_a_closed_one_counts(fleet: Stores) -> None:
    await fleet.nodes.insert_generation(generation(1, id=f"{NODES[0]}.2", number=2))
    await fleet.nodes.update(node(1, current_generation=2, last_generation=2, closed_up_to=1), "changed")
    await fleet.nodes.update(node(2, closed_up_to=1), "changed")
    await fleet.adoption.write({f"{NODES[0]}.2": TrustReport(2, "aa")}, 2)
    assert await counts(fleet) == {(2, "aa", 1), (0, "", 1)}
