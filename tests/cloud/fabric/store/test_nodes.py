"""`cloud.fabric.store.nodes`: nodes, their generations, and the queries of the background work."""

import msgspec

from cloud.fabric import schemas
from cloud.fabric.store import Stores
from cloud.fabric.store.nodes import Seen
from cloud.fabric.store.rows import generation_id
from protocol.ids import TenantId, make_id
from tests.cloud.fabric.store.support import HOUR, NODES, NOW, TENANT, generation, node


async def test_a_row_comes_back_as_it_went(stores: Stores) -> None:
    row, own = node(lease=schemas.LeaseTerms(1, 2, 3, 4)), generation(seen_fingerprint={"a": "b"})
    await stores.nodes.insert(row, "activated")
    await stores.nodes.insert_generation(own)
    assert await stores.nodes.find(row.id) == await stores.nodes.find_by_ek(row.ek_hash) == row
    assert await stores.nodes.find_generation(row.id, 1) == own
    assert await stores.nodes.find(NODES[1]) is None
    assert await stores.nodes.find_by_ek("other") is None
    assert await stores.nodes.find_generation(row.id, 2) is None
    assert (await stores.nodes.cursor(row.id), await stores.nodes.cursor(NODES[1])) == (0, None)


async def test_an_update_writes_all_changing_columns_except_closed_at_issuer(stores: Stores) -> None:
    await stores.nodes.insert(node(wake_cursor=3), "activated")
    changed = node(standing="revoked", standing_reason="stolen", closed_up_to=1, seq=7, wake_cursor=3, lease_until=NOW)
    await stores.nodes.update(msgspec.structs.replace(changed, closed_at_issuer=9), "changed")
    assert await stores.nodes.find(NODES[0]) == msgspec.structs.replace(changed, closing=False)
    await stores.nodes.update(changed, "changed")
    assert await stores.nodes.find(NODES[0]) == msgspec.structs.replace(changed, closing=True)


async def test_a_wake_advances_the_cursor_also_if_another_wake_came_after_the_read(stores: Stores) -> None:
    await stores.nodes.insert(
        node(wake_cursor=3, standing="active", current_generation=1, last_generation=1), "activated"
    )
    read = await stores.nodes.find(NODES[0])
    assert read is not None
    assert await stores.adoption.wake("", 10) == [NODES[0]]
    await stores.nodes.update(read, "changed", wakes=True)
    await stores.nodes.update(read, "changed")
    assert await stores.nodes.cursor(NODES[0]) == 5


async def test_nodes_are_paged_by_tenant_and_standing(stores: Stores) -> None:
    other = TenantId(make_id("ten", 2, bytes(10)))
    for row in (node(1), node(2, standing="suspended"), node(3, tenant=other)):
        await stores.nodes.insert(row, "activated")
    assert [row.id for row in await stores.nodes.page("", "", "", 10)] == NODES[:3]
    assert [row.id for row in await stores.nodes.page("", "", NODES[0], 1)] == NODES[1:2]
    assert [row.id for row in await stores.nodes.page(other, "", "", 10)] == NODES[2:3]
    assert [row.id for row in await stores.nodes.page(TENANT, "suspended", "", 10)] == NODES[1:2]


async def test_closed_generations_are_listed_until_the_issuer_has_closed_them(stores: Stores) -> None:
    await stores.nodes.insert(node(1, last_generation=2, closed_up_to=2, closing=True), "activated")
    await stores.nodes.insert(node(2), "activated")
    assert [row.id for row in await stores.nodes.closing("", 10)] == NODES[:1]
    assert await stores.nodes.closing(NODES[0], 10) == []
    await stores.nodes.set_closed_at_issuer(NODES[0], 1)
    assert [row.closed_at_issuer for row in await stores.nodes.closing("", 10)] == [1]
    await stores.nodes.set_closed_at_issuer(NODES[0], 2)
    assert await stores.nodes.closing("", 10) == []
    await stores.nodes.set_closed_at_issuer(NODES[0], 1)
    row = await stores.nodes.find(NODES[0])
    assert row is not None
    assert (row.closed_at_issuer, row.closing) == (2, False)


async def test_a_seat_is_due_when_the_last_lease_has_terminated(stores: Stores) -> None:
    await stores.nodes.insert(node(1, standing="revoked", closed_up_to=1, lease_until=NOW), "activated")
    await stores.nodes.insert(node(2, standing="revoked", closed_up_to=1), "activated")
    await stores.nodes.insert(node(3, standing="revoked", last_generation=2, closed_up_to=1), "activated")
    await stores.nodes.insert(node(4), "activated")
    assert [row.id for row in await stores.nodes.seats_due(NOW - HOUR, 10)] == NODES[1:2]
    assert [row.id for row in await stores.nodes.seats_due(NOW, 10)] == NODES[:2]
    due = node(1, standing="revoked", closed_up_to=1, lease_until=NOW, seat_held=False)
    await stores.nodes.update(due, "seat_freed")
    assert [row.id for row in await stores.nodes.seats_due(NOW, 10)] == NODES[1:2]


async def test_a_generation_is_open_for_its_tenant_until_it_is_closed(stores: Stores) -> None:
    await stores.nodes.insert(node(1), "activated")
    await stores.nodes.insert_generation(generation(1))
    assert await stores.nodes.generation_open(TENANT, NODES[0], 1)
    assert not await stores.nodes.generation_open(make_id("ten", 2, bytes(10)), NODES[0], 1)
    assert not await stores.nodes.generation_open(TENANT, NODES[0], 2)
    await stores.nodes.update(node(1, closed_up_to=1), "changed")
    assert not await stores.nodes.generation_open(TENANT, NODES[0], 1)
    await stores.nodes.insert(node(2), "activated")
    await stores.nodes.insert_generation(generation(2, state="closed"))
    assert not await stores.nodes.generation_open(TENANT, NODES[1], 1)


async def test_open_generations_are_listed_from_the_first_and_shown_from_the_newest(stores: Stores) -> None:
    for number, state in ((1, "closed"), (2, "confirmed"), (3, "offered")):
        key = generation_id(NODES[0], number)
        await stores.nodes.insert_generation(generation(1, id=key, number=number, state=state))
    assert [row.number for row in await stores.nodes.open_generations(NODES[0], 3)] == [2, 3]
    assert [row.number for row in await stores.nodes.open_generations(NODES[0], 2)] == [2]
    assert [row.number for row in await stores.nodes.generations(NODES[0])] == [3, 2, 1]


async def test_state_and_statement_of_a_generation_change_and_nothing_else(stores: Stores) -> None:
    before = generation(state="offered", confirmed_at=None)
    await stores.nodes.insert_generation(before)
    lease = {"statement": "token", "statement_type": "lease", "seq": 5, "issued_at": NOW, "refresh_after": NOW + HOUR}
    changed = msgspec.structs.replace(before, state="confirmed", confirmed_at=NOW, terminate_at=NOW, **lease)
    other = msgspec.structs.replace(changed, ak_public=b"other", agent_version="2")
    await stores.nodes.update_generation(other, node())
    assert await stores.nodes.find_generation(NODES[0], 1) == changed
    await stores.nodes.set_certificate_end(NODES[0], 1, NOW + HOUR)
    assert await stores.nodes.find_generation(NODES[0], 1) == msgspec.structs.replace(
        changed, certificate_not_after=NOW + HOUR
    )


async def test_the_values_of_a_session_replace_those_of_the_session_before(stores: Stores) -> None:
    await stores.nodes.insert_generation(generation())
    for version in ("1.1", "1.2"):
        await stores.nodes.set_seen(generation().id, Seen(NOW, {"board_serial": "cd"}, version, NOW + HOUR))
    row = await stores.nodes.find_generation(NODES[0], 1)
    assert row is not None
    assert (row.seen_at, row.seen_fingerprint, row.agent_version) == (NOW, {"board_serial": "cd"}, "1.2")
    assert row.fingerprint == {"board_serial": "ab"}


async def test_development_mode_is_stored_where_it_differs(stores: Stores) -> None:
    for number in (1, 2):
        await stores.nodes.insert(node(number), "activated")
    changed = [await stores.nodes.set_development(NODES[0], value) for value in (False, True, True, False, True)]
    assert changed == [False, True, False, True, True]
    assert await stores.nodes.find(NODES[0]) == node(development=True)
    assert await stores.nodes.find(NODES[1]) == node(2)


async def test_the_last_ask_of_a_superseded_generation_is_stored(stores: Stores) -> None:
    for number in (1, 2):
        await stores.nodes.insert(node(number), "activated")
    for number, hours in ((1, 2), (2, 3), (1, 1)):
        await stores.nodes.set_superseded_asked(NODES[0], number, NOW + hours * HOUR)
    asked = node(superseded_asked_at=NOW + 3 * HOUR, superseded_asked_generation=2)
    assert await stores.nodes.find(NODES[0]) == asked
    assert await stores.nodes.find(NODES[1]) == node(2)
    await stores.nodes.update(node(seq=9), "changed")
    assert await stores.nodes.find(NODES[0]) == msgspec.structs.replace(asked, seq=9)


async def test_the_first_delivery_of_a_revocation_is_stored(stores: Stores) -> None:
    await stores.nodes.insert_generation(generation(state="closed"))
    assert [await stores.nodes.set_revocation_delivered(NODES[0], 1, NOW + hours * HOUR) for hours in (0, 1)] == [
        True,
        False,
    ]
    row = await stores.nodes.find_generation(NODES[0], 1)
    assert row is not None
    assert row.told_at == NOW
