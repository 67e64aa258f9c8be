"""`cloud.breakwater.store.generation_lists`: the generations of all nodes in pages, and the time of a restore."""

from cloud.breakwater.store import Stores
from cloud.contracts.breakwater import NodeGenerations
from cloud.storage import Statement
from protocol.ids import NodeId, TenantId, make_id
from tests.cloud.breakwater.store.samples import TENANT, entry

RESTORE = {"name": "restored", "value": 1_796_000_000_000}
NODES = [make_id("node", number, bytes(10)) for number in range(1, 6)]


async def test_each_page_has_the_generations_of_its_nodes(stores: Stores) -> None:
    opened, closed, alone, mixed, _ = NODES
    for number in (1, 2):
        await stores.generations.open(entry(number, node=opened))
    await stores.generations.close_up_to(entry(3, node=closed), 4)
    await stores.generations.close_one(entry(2, node=alone), 4)
    for number in (1, 2, 3):
        await stores.generations.open(entry(number, node=mixed))
    await stores.generations.close_up_to(entry(1, node=mixed), 4)
    await stores.generations.close_one(entry(3, node=mixed), 4)
    tenant = TenantId(TENANT)
    expected = [
        NodeGenerations(NodeId(opened), tenant, 0, (1, 2)),
        NodeGenerations(NodeId(closed), tenant, 3),
        NodeGenerations(NodeId(alone), tenant, 0, (), (2,)),
        NodeGenerations(NodeId(mixed), tenant, 1, (2,), (3,)),
    ]
    listed: list[NodeGenerations] = []
    cursor = ""
    for size in (3, 1):
        page = await stores.generation_lists.page(cursor, 3)
        assert len(page.nodes) == size
        listed += page.nodes
        cursor = page.cursor
    assert (listed, cursor) == (expected, "")
    assert (await stores.generation_lists.page("")).cursor == ""
    assert (await stores.generation_lists.page(mixed)).nodes == ()


async def test_a_page_says_when_the_database_was_restored(stores: Stores) -> None:
    assert (await stores.generation_lists.page("")).restored == 0
    await stores.engine.fetch(Statement("INSERT INTO counter (name, value) VALUES ({name}, {value})"), **RESTORE)
    assert (await stores.generation_lists.page("")).restored == RESTORE["value"]
