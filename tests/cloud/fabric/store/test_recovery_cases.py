"""`cloud.fabric.store.recovery_cases`: cases, the grace leases of a period, machines that were replaced, overdue cases."""

from datetime import timedelta
from typing import Any

import msgspec

from cloud.fabric.store import Stores
from cloud.fabric.store.rows import RecoveryCaseRow
from protocol.ids import NodeId, RecoveryId, TenantId, make_id
from tests.cloud.fabric.store.support import HOUR, NODES, NOW, TENANT, recovery_case

DAY = timedelta(days=1)


def numbered(number: int, **changes: Any) -> RecoveryCaseRow:
    return recovery_case(id=RecoveryId(make_id("rcv", number, bytes(10))), **changes)


async def test_a_row_comes_back_as_it_went_and_changes(stores: Stores) -> None:
    row = recovery_case()
    await stores.recovery_cases.insert(row)
    assert await stores.recovery_cases.find(row.id) == row
    changed = msgspec.structs.replace(
        row, state="approved", decided_at=NOW, decided_by="ada", reason="board replaced", generation=2, grace_until=NOW
    )
    await stores.recovery_cases.update(changed)
    assert await stores.recovery_cases.find(row.id) == changed
    assert await stores.recovery_cases.find(RecoveryId(make_id("rcv", 9, bytes(10)))) is None


async def test_the_latest_case_of_a_node_is_found(stores: Stores) -> None:
    for number, node in ((1, NODES[0]), (2, NODES[1]), (3, NODES[0])):
        await stores.recovery_cases.insert(numbered(number, node=node, state="lapsed"))
    latest = await stores.recovery_cases.latest(NODES[0])
    assert latest is not None
    assert latest.id == make_id("rcv", 3, bytes(10))
    await stores.recovery_cases.update(numbered(1, state="approved"))
    assert await stores.recovery_cases.latest(NODES[0]) == numbered(1, state="approved"), "it is not finished"
    assert await stores.recovery_cases.latest(NODES[3]) is None


async def test_grace_leases_are_counted_by_tenant_and_time(stores: Stores) -> None:
    other = TenantId(make_id("ten", 2, bytes(10)))
    await stores.recovery_cases.insert(numbered(1, grace=True, opened_at=NOW - DAY))
    await stores.recovery_cases.insert(numbered(2, grace=True, opened_at=NOW, node=NODES[1]))
    await stores.recovery_cases.insert(numbered(3, grace=False, opened_at=NOW))
    await stores.recovery_cases.insert(numbered(4, grace=True, opened_at=NOW, tenant=other))
    graces = await stores.recovery_cases.graces(TENANT, NOW - 2 * DAY, 10)
    assert graces == [(NOW - DAY, NODES[0]), (NOW, NODES[1])]
    assert await stores.recovery_cases.graces(TENANT, NOW - DAY, 10) == [(NOW, NODES[1])]
    assert len(await stores.recovery_cases.graces(TENANT, NOW - 2 * DAY, 1)) == 1


async def test_a_replaced_machine_is_known_by_its_chip_once_another_took_its_place(stores: Stores) -> None:
    await stores.recovery_cases.insert(numbered(1, old_ek_hash="old", situation="hardware-replaced", generation=0))
    await stores.recovery_cases.insert(numbered(2, old_ek_hash="same", situation="reinstalled", generation=2))
    assert await stores.recovery_cases.replaced("old") is None
    assert await stores.recovery_cases.replaced("same") is None
    row = numbered(3, old_ek_hash="old", situation="hardware-replaced", generation=2)
    await stores.recovery_cases.insert(row)
    assert await stores.recovery_cases.replaced("old") == row


async def test_cases_are_paged_and_filtered(stores: Stores) -> None:
    rows = [numbered(number, node=NodeId(NODES[number % 2])) for number in (1, 2, 3)]
    rows[2] = msgspec.structs.replace(rows[2], state="refused")
    for row in rows:
        await stores.recovery_cases.insert(row)
    page = stores.recovery_cases.page
    assert await page(TENANT, "", "", "", 2) == rows[:2]
    assert await page("", "", "", rows[1].id, 2) == rows[2:]
    assert await page(TENANT, NODES[1], "", "", 9) == [rows[0], rows[2]]
    assert await page(TENANT, "", "refused", "", 9) == rows[2:]
    assert await stores.recovery_cases.count_unfinished(TENANT) == 2


async def test_unfinished_cases_are_overdue_at_their_end(stores: Stores) -> None:
    due = numbered(1, decide_by=NOW)
    for row in (due, numbered(2, decide_by=NOW + HOUR), numbered(3, decide_by=NOW, state="consumed")):
        await stores.recovery_cases.insert(row)
    assert await stores.recovery_cases.overdue(NOW, "", 10) == [due]
    assert await stores.recovery_cases.overdue(NOW, due.id, 10) == []
