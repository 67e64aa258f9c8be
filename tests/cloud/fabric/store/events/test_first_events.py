"""`cloud.fabric.store.events.first_events`: ids in order, the place of the walk, and rows as they are."""

from cloud.fabric.store import Stores
from cloud.fabric.store.events.first_events import key_of
from tests.cloud.fabric.recorded import Recorded
from tests.cloud.fabric.store.support import NODES, NOW, generation, node


async def test_ids_come_in_order_after_the_last_one(stores: Stores) -> None:
    for number in (2, 1, 3):
        await stores.nodes.insert(node(number), "activated")
    assert await stores.first_events.ids("node", "", 2) == NODES[:2]
    assert await stores.first_events.ids("node", NODES[1], 2) == NODES[2:3]


async def test_the_place_is_stored(stores: Stores) -> None:
    assert await stores.first_events.place() == ""
    for place in ("tenant ten_1", "code"):
        await stores.first_events.set_place(place)
        assert await stores.first_events.place() == place


async def test_a_generation_without_a_statement_has_no_event(stores: Stores, recorded: Recorded) -> None:
    await stores.nodes.insert(node(1), "activated")
    await stores.nodes.insert_generation(generation(1, statement_type="", issued_at=None))
    await stores.first_events.record("statement", f"{NODES[0]}.1")
    assert [noun for noun, _, _ in recorded.events] == ["node"]
    await stores.nodes.insert_generation(
        generation(1, id=f"{NODES[0]}.2", number=2, statement_type="lease", issued_at=NOW)
    )
    await stores.first_events.record("statement", f"{NODES[0]}.2")
    assert recorded.events[-1] == ("statement", f"{NODES[0]}-2", "recorded")


def test_an_object_is_recorded_under_its_own_key() -> None:
    assert key_of("statement", "node_1.2") == key_of("node", "node_1") == "node:node_1"
    assert (key_of("tenant", "ten_1"), key_of("code", "code_1")) == ("tenant:ten_1", "code:code_1")
