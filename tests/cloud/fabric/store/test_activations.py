"""`cloud.fabric.store.activations`: states change by compare-and-set."""

import msgspec

from cloud.fabric.store import Stores
from protocol.ids import CodeId
from protocol.limits import CHALLENGE_TRIES_MAX
from tests.cloud.fabric.store.support import CODE, HOUR, NODES, NOW, TENANT, activation


async def proved(stores: Stores, number: int = 1) -> None:
    """An activation of the first node, for the generation with that number."""
    row = activation(number)
    await stores.activations.insert(row)
    changes = {"node": NODES[0], "generation": number, "proof_hash": "p", "csr": b"csr", "confirm_by": NOW + HOUR}
    assert await stores.activations.set_proved(msgspec.structs.replace(row, **changes, not_after=NOW))


async def test_a_row_comes_back_as_it_went(stores: Stores) -> None:
    row = activation(certificate_chain=(b"leaf", b"issuer"))
    await stores.activations.insert(row)
    assert await stores.activations.find(row.id) == row
    assert await stores.activations.find(activation(2).id) is None


async def test_challenges_of_a_code_are_read_in_order_even_if_they_failed(stores: Stores) -> None:
    for number in (1, 2, 3):
        row = msgspec.structs.replace(activation(number), created_at=NOW + number * HOUR)
        await stores.activations.insert(row)
    await stores.activations.insert(msgspec.structs.replace(activation(4), code=CodeId("code_2")))
    for tries in range(1, CHALLENGE_TRIES_MAX + 1):
        assert await stores.activations.count_wrong_answer(activation(1).id) == tries
    assert await stores.activations.count_wrong_answer(activation(1).id) is None
    made = [NOW + number * HOUR for number in (1, 2, 3)]
    assert await stores.activations.made_after(CODE, TENANT, NOW, 10) == made
    assert await stores.activations.made_after(CODE, TENANT, NOW, 2) == made[1:]
    assert await stores.activations.made_after(CODE, TENANT, NOW + 2 * HOUR, 10) == made[2:]


async def test_each_step_holds_once(stores: Stores) -> None:
    await proved(stores)
    key = activation().id
    assert not await stores.activations.set_proved(activation())
    assert not await stores.activations.set_confirmed(key)
    assert await stores.activations.set_issued(key, (b"leaf",))
    assert not await stores.activations.set_issued(key, (b"other",))
    found = await stores.activations.find_by_generation(NODES[0], 1)
    assert found is not None
    assert (found.state, found.certificate_chain, found.csr) == ("issued", (b"leaf",), b"csr")
    assert await stores.activations.count_live(NODES[0]) == 1
    assert await stores.activations.set_confirmed(key)
    assert not await stores.activations.set_lapsing(key)
    assert await stores.activations.count_live(NODES[0]) == 0


async def test_the_newest_activation_of_a_proof_is_found(stores: Stores) -> None:
    await proved(stores, 1)
    await proved(stores, 2)
    row = await stores.activations.find(activation(2).id)
    assert row is not None
    assert await stores.activations.find_by_proof("p") == row
    assert await stores.activations.find_by_proof("q") is None


async def test_activations_that_are_not_confirmed_in_time_lapse(stores: Stores) -> None:
    await proved(stores)
    assert await stores.activations.overdue(NOW, 10) == []
    (row,) = await stores.activations.overdue(NOW + HOUR, 10)
    assert await stores.activations.set_lapsing(row.id)
    assert [each.id for each in await stores.activations.lapsing(10)] == [row.id]
    assert await stores.activations.set_lapsed(row.id)
    assert not await stores.activations.set_lapsed(row.id)
    assert await stores.activations.lapsing(10) == []


async def test_a_later_generation_supersedes_earlier_activations(stores: Stores) -> None:
    for number in (1, 2, 3):
        await proved(stores, number)
    await stores.activations.supersede(NODES[0], 2)
    states = [await stores.activations.find(activation(number).id) for number in (1, 2, 3)]
    assert [row.state for row in states if row is not None] == ["superseded", "superseded", "proved"]


async def test_unanswered_challenges_are_deleted(stores: Stores) -> None:
    await proved(stores)
    await stores.activations.insert(activation(2))
    await stores.activations.purge(NOW + HOUR)
    assert await stores.activations.find(activation(2).id) is not None
    await stores.activations.purge(NOW + 2 * HOUR)
    assert await stores.activations.find(activation(2).id) is None
    assert await stores.activations.find(activation(1).id) is not None
