"""`cloud.fabric.store.renewals`: states change by compare-and-set."""

from typing import Any

import msgspec

from cloud.fabric.store import Stores
from cloud.fabric.store.rows import RenewalRow
from protocol.limits import CHALLENGE_TRIES_MAX
from tests.cloud.fabric.store.support import HOUR, NODES, NOW, generation, renewal


async def proved(stores: Stores, number: int = 1, **changes: Any) -> RenewalRow:
    row = renewal(number, **changes)
    await stores.renewals.insert(row)
    row = msgspec.structs.replace(row, proof_hash="p", csr=b"csr", node_public_key=b"new", not_after=NOW + HOUR)
    assert await stores.renewals.set_proved(row)
    return row


async def test_a_row_comes_back_as_it_went(stores: Stores) -> None:
    row = renewal(certificate_chain=(b"leaf",), expired=False)
    await stores.renewals.insert(row)
    assert await stores.renewals.find(row.id) == row
    assert await stores.renewals.find(renewal(2).id) is None


async def test_challenges_count_until_they_expire_even_if_they_failed(stores: Stores) -> None:
    for number in (1, 2):
        await stores.renewals.insert(renewal(number))
    for tries in range(1, CHALLENGE_TRIES_MAX + 1):
        assert await stores.renewals.count_wrong_answer(renewal(1).id) == tries
    assert await stores.renewals.count_wrong_answer(renewal(1).id) is None
    assert await stores.renewals.count_open(NODES[0], NOW) == 2
    assert await stores.renewals.count_open(NODES[1], NOW) == 0
    assert await stores.renewals.count_open(NODES[0], NOW + HOUR) == 0


async def test_each_step_holds_once(stores: Stores) -> None:
    row = await proved(stores)
    assert not await stores.renewals.set_proved(row)
    assert await stores.renewals.count_proved(NODES[0], NOW - HOUR) == 1
    assert await stores.renewals.count_proved(NODES[0], NOW) == 0
    assert await stores.renewals.set_issued(row.id, (b"leaf",), rekeyed=True)
    assert not await stores.renewals.set_issued(row.id, (b"other",), rekeyed=True)
    assert [each.id for each in await stores.renewals.rekeyed(10)] == [row.id]
    assert [await stores.renewals.set_done(row.id) for _ in range(2)] == [True, False]
    assert await stores.renewals.rekeyed(10) == []


async def test_the_same_key_is_done_at_once(stores: Stores) -> None:
    row = await proved(stores)
    assert await stores.renewals.set_issued(row.id, (b"leaf",), rekeyed=False)
    found = await stores.renewals.find(row.id)
    assert found is not None
    assert (found.state, found.certificate_chain) == ("done", (b"leaf",))


async def test_the_generation_gets_the_key(stores: Stores) -> None:
    await stores.nodes.insert_generation(generation())
    await stores.renewals.set_key(NODES[0], 1, b"new", NOW + HOUR)
    row = await stores.nodes.find_generation(NODES[0], 1)
    assert row is not None
    assert (row.node_public_key, row.certificate_not_after) == (b"new", NOW + HOUR)


async def test_old_renewals_are_deleted_unless_the_issuer_must_still_revoke_the_old_key(stores: Stores) -> None:
    rekeyed, forgotten = await proved(stores, 1), await proved(stores, 2)
    assert await stores.renewals.set_issued(rekeyed.id, (b"leaf",), rekeyed=True)
    await stores.renewals.purge(NOW)
    assert await stores.renewals.find(forgotten.id) is not None
    await stores.renewals.purge(NOW + HOUR)
    assert await stores.renewals.find(forgotten.id) is None
    assert await stores.renewals.find(rekeyed.id) is not None
