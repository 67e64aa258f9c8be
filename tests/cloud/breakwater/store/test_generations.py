"""`cloud.breakwater.store.generations`: open, close for ever, and the certificates that a close revokes."""

import pytest

from cloud.breakwater.errors import Conflict
from cloud.breakwater.store import Stores
from tests.cloud.breakwater.store.samples import (
    HOUR,
    NODE,
    NOW,
    OTHER_TENANT,
    TBS,
    TENANT,
    adopt,
    entry,
    issue,
    key_hash,
    order,
    records,
    states,
)


async def is_open(stores: Stores, *numbers: int, tenant: str = TENANT) -> list[bool]:
    return [await stores.generations.is_open(tenant, NODE, number) for number in numbers]


async def test_a_close_up_to_also_closes_generations_that_open_later(stores: Stores) -> None:
    assert await is_open(stores, 1) == [False]
    for generation in (1, 1, 2, 3):
        await stores.generations.open(entry(generation))
    assert await is_open(stores, 1, 2, 3, 4) == [True, True, True, False]
    assert await is_open(stores, 1, tenant=OTHER_TENANT) == [False]
    for up_to in (2, 1):
        assert await stores.generations.close_up_to(entry(up_to), 4) == 0
        assert await is_open(stores, 1, 2, 3) == [False, False, True]
    with pytest.raises(Conflict, match="closed for ever"):
        await stores.generations.open(entry(2))


async def test_one_generation_is_closed_alone_opened_or_not(stores: Stores) -> None:
    for generation in (1, 2):
        await stores.generations.open(entry(generation))
    for generation in (2, 2, 3):
        assert await stores.generations.close_one(entry(generation), 4) == 0
    assert await is_open(stores, 1, 2, 3) == [True, False, False]
    for generation in (2, 3):
        with pytest.raises(Conflict, match="closed for ever"):
            await stores.generations.open(entry(generation))


async def test_a_node_belongs_to_the_tenant_of_its_first_row(stores: Stores) -> None:
    """Both an opened generation and a close are such a row."""
    await stores.generations.close_up_to(entry(1), 4)
    other = entry(2, tenant=OTHER_TENANT)
    for refused in (
        stores.generations.open(other),
        stores.generations.close_up_to(other, 4),
        stores.generations.close_one(other, 4),
        stores.generations.supersede_keys(other, key_hash(1), 4),
    ):
        with pytest.raises(Conflict, match="another tenant"):
            await refused
    await stores.generations.open(entry(2))


async def test_a_close_revokes_devices_and_records_and_leaves_sessions(stores: Stores) -> None:
    await adopt(stores)
    for generation in (1, 2, 3):
        await stores.generations.open(entry(generation))
        await issue(stores, order(generation, generation=generation))
    await issue(stores, order(11, "session", generation=1))
    await stores.issuance.record(order(12, "session", generation=1), TBS, NOW)
    await stores.issuance.record(order(13, generation=2), TBS, NOW)
    orphan = order(14, generation=2)
    await stores.issuance.record(orphan, TBS, NOW)
    await stores.issuance.orphan(orphan, NOW - HOUR)
    assert await stores.generations.close_one(entry(1, at=NOW + HOUR), 9) == 1
    assert await states(stores) == {
        1: "revoked",
        2: "issued",
        3: "issued",
        11: "issued",
        12: "revoked",
        13: "recorded",
        14: "orphaned",
    }
    assert await stores.generations.close_up_to(entry(2, at=NOW + 2 * HOUR), 5) == 4
    assert await stores.generations.close_up_to(entry(2), 4) == 4
    found = await records(stores)
    revoked = {number: (row.reason, row.revoked_at) for number, row in found.items() if row.state == "revoked"}
    assert revoked == {
        1: (9, NOW + HOUR),
        2: (5, NOW + 2 * HOUR),
        12: (9, NOW + HOUR),
        13: (5, NOW + 2 * HOUR),
        14: (5, NOW - HOUR),
    }
    shard = await stores.shards.find("nodes-1.1")
    assert shard is not None
    assert shard.revision == 3


async def test_a_new_key_supersedes_those_before_it(stores: Stores) -> None:
    await adopt(stores)
    for generation in (1, 2):
        await stores.generations.open(entry(generation))
    for number, (key, generation, hours) in enumerate([(1, 1, 0), (2, 1, 1), (1, 1, 2), (3, 1, 3), (4, 2, 0)], 1):
        made = order(number, key=key, generation=generation)
        await issue(stores, made, NOW + hours * HOUR)
    assert await stores.generations.supersede_keys(entry(1), key_hash(9), 4) == 0
    assert await stores.generations.supersede_keys(entry(1), key_hash(1), 4) == 1
    assert await stores.generations.supersede_keys(entry(1), key_hash(1), 4) == 0
    assert await states(stores) == {1: "issued", 2: "revoked", 3: "issued", 4: "issued", 5: "issued"}
