"""`cloud.fabric.store.airgap`: exchanges with nodes without a network."""

from typing import Any

import msgspec

from cloud.fabric.store import Stores
from cloud.fabric.store.exchange_rows import AirgapExchangeRow
from protocol.evidence import ClockInfo
from protocol.ids import AirgapRequestId, make_id
from tests.cloud.fabric.store.support import HOUR, NODES, NOW, TENANT


def exchange(number: int = 1, **changes: Any) -> AirgapExchangeRow:
    row = AirgapExchangeRow(
        id=AirgapRequestId(make_id("agr", number, bytes(10))),
        tenant=TENANT,
        node=NODES[0],
        generation=1,
        kind="refresh",
        state="answered",
        request_sha256="ab" * 32,
        activation="",
        made_at=NOW,
        clock=ClockInfo(1, 2, 3, True),
        answered_at=NOW + number * HOUR,
        valid_until=NOW + 100 * HOUR,
        answered_by="tok_1",
        seq=7,
        statement_type="lease",
        statement_sha256="cd" * 32,
        answer="{}",
        answers_sha256=("ef" * 32,),
    )
    return msgspec.structs.replace(row, **changes)


async def test_a_row_comes_back_as_it_went(stores: Stores) -> None:
    row = exchange()
    await stores.airgap.insert(row)
    assert await stores.airgap.find(row.id) == row
    assert await stores.airgap.find_of(NODES[0], row.id) == row
    assert await stores.airgap.find_of(NODES[1], row.id) is None
    assert await stores.airgap.find(exchange(2).id) is None
    changed = msgspec.structs.replace(row, state="received", answer="", received_at=NOW, imported_at=NOW + HOUR)
    await stores.airgap.update(changed)
    assert await stores.airgap.find(row.id) == changed


async def test_the_newest_exchange_of_a_node_is_that_which_was_answered_last(stores: Stores) -> None:
    assert await stores.airgap.newest(NODES[0]) is None
    await stores.airgap.insert(exchange(2))
    await stores.airgap.insert(exchange(1))
    await stores.airgap.insert(exchange(3, node=NODES[1]))
    assert await stores.airgap.newest(NODES[0]) == exchange(2)


async def test_outstanding_exchanges_are_superseded(stores: Stores) -> None:
    rows = [exchange(1), exchange(2, state="received"), exchange(3, node=NODES[1]), exchange(4)]
    for row in rows:
        await stores.airgap.insert(row)
    await stores.airgap.supersede(NODES[0], rows[3].id)
    found = [await stores.airgap.find(row.id) for row in rows]
    assert [row and row.state for row in found] == ["superseded", "received", "answered", "answered"]
    assert [row and row.answer for row in found] == ["", "{}", "{}", "{}"]


async def test_pages_are_filtered(stores: Stores) -> None:
    rows = [exchange(1), exchange(2, state="received"), exchange(3, node=NODES[1])]
    for row in rows:
        await stores.airgap.insert(row)
    assert await stores.airgap.page("", "", "", "", 10) == rows
    assert await stores.airgap.page(TENANT, NODES[0], "answered", "", 10) == rows[:1]
    assert await stores.airgap.page("", "", "", rows[0].id, 1) == rows[1:2]


async def test_old_rows_go_and_expired_answers_are_emptied(stores: Stores) -> None:
    rows = [exchange(1), exchange(2, state="received"), exchange(3, state="superseded"), exchange(9, state="received")]
    for row in rows:
        await stores.airgap.insert(row)
    await stores.airgap.purge(NOW + 50 * HOUR, NOW + 4 * HOUR)
    assert await stores.airgap.page("", "", "", "", 10) == [rows[0], rows[3]]
    await stores.airgap.purge(NOW + 101 * HOUR, NOW + 4 * HOUR)
    assert [row.answer for row in await stores.airgap.page("", "", "", "", 10)] == ["", ""]
