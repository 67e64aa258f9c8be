"""`cloud.fabric.store.recovery_codes`: codes by hash, node and time, and their single use by compare-and-set."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cloud.fabric.store import Stores
from cloud.fabric.store.rows import RecoveryCodeRow
from protocol.ids import NodeId, RecoveryCodeId, TenantId, make_id
from tests.cloud.fabric.store.support import HOUR, NODES, NOW, TENANT

CODES = [RecoveryCodeId(make_id("rcc", number, bytes(10))) for number in range(1, 5)]
SECOND = timedelta(seconds=1)


def recovery_code(number: int = 1, **changes: Any) -> RecoveryCodeRow:
    row = RecoveryCodeRow(
        id=CODES[number - 1],
        tenant=TENANT,
        secret_hash=f"hash {number}",
        node=NODES[0],
        recovery_case="",
        created_at=NOW + number * SECOND,
        created_by="tok",
        usable_from=NOW,
        expires_at=NOW + HOUR,
    )
    return msgspec.structs.replace(row, **changes)


async def test_a_row_comes_back_as_it_went(stores: Stores) -> None:
    row = recovery_code()
    await stores.recovery_codes.insert(row)
    assert await stores.recovery_codes.find(CODES[0]) == row
    assert await stores.recovery_codes.find_by_hash("hash 1") == row
    assert await stores.recovery_codes.find_by_hash("other") is None


async def test_codes_are_listed_by_tenant_and_node(stores: Stores) -> None:
    other = TenantId(make_id("ten", 2, bytes(10)))
    await stores.recovery_codes.insert(recovery_code(1))
    await stores.recovery_codes.insert(recovery_code(2, node=NodeId("")))
    await stores.recovery_codes.insert(recovery_code(3, tenant=other, node=NODES[1], usable_from=NOW + HOUR))
    page = stores.recovery_codes.page
    assert [row.id for row in await page("", "", "", 10)] == CODES[:3]
    assert [row.id for row in await page(TENANT, "", "", 1)] == CODES[:1]
    assert [row.id for row in await page(TENANT, "", CODES[0], 10)] == CODES[1:2]
    assert [row.id for row in await page("", NODES[1], "", 10)] == CODES[2:3]
    delayed = stores.recovery_codes.delayed
    assert [row.id for row in await delayed("", "", NOW, "", 10)] == CODES[2:3]
    assert await delayed(TENANT, "", NOW, "", 10) == []
    assert await delayed("", "", NOW + HOUR, "", 10) == []


async def test_the_newest_code_of_a_node_or_of_no_node(stores: Stores) -> None:
    for number, node in ((1, NODES[0]), (2, NODES[0]), (3, NodeId(""))):
        await stores.recovery_codes.insert(recovery_code(number, node=node))
    newest = [await stores.recovery_codes.newest(TENANT, node) for node in (NODES[0], "", NODES[1])]
    assert [row and row.id for row in newest] == [CODES[1], CODES[2], None]


async def test_a_code_is_used_once(stores: Stores) -> None:
    await stores.recovery_codes.insert(recovery_code())
    assert [await stores.recovery_codes.use(CODES[0], case, NOW) for case in ("one", "two")] == [True, False]
    row = await stores.recovery_codes.find(CODES[0])
    assert row is not None
    assert (row.used_at, row.used_case) == (NOW, "one")
    assert not await stores.recovery_codes.revoke(CODES[0], NOW)


@pytest.mark.parametrize(
    ("changes", "usable"),
    [
        ({}, True),
        ({"usable_from": NOW + SECOND}, False),
        ({"expires_at": NOW}, False),
        ({"expires_at": NOW + SECOND}, True),
        ({"revoked_at": NOW}, False),
        ({"used_at": NOW}, False),
    ],
)
async def test_only_a_code_in_force_is_used(stores: Stores, changes: dict[str, Any], usable: bool) -> None:
    await stores.recovery_codes.insert(recovery_code(**changes))
    assert await stores.recovery_codes.use(CODES[0], "case", NOW) is usable


async def test_the_first_revocation_counts(stores: Stores) -> None:
    await stores.recovery_codes.insert(recovery_code())
    assert [await stores.recovery_codes.revoke(CODES[0], NOW + after) for after in (SECOND, HOUR)] == [True, False]
    row = await stores.recovery_codes.find(CODES[0])
    assert row is not None
    assert row.revoked_at == NOW + SECOND
