"""`cloud.fabric.service.nodes.known`: node and generation are loaded together, and unknown ones get one refusal."""

import pytest

from cloud.fabric.errors import NodeUnknown, NotFound
from cloud.fabric.service.nodes.known import load
from protocol.ids import NodeId, TenantId, make_id
from tests.cloud.fabric.support import Machine, World

NOBODY = NodeId(make_id("node", 9, bytes(10)))
STRANGER = TenantId(make_id("ten", 9, bytes(10)))


async def test_node_and_generation_are_those_of_the_tenant(world: World, machine: Machine) -> None:
    node, generation = await load(world.stores.nodes, world.tenant, machine.node, 1)
    assert (node.id, generation.node, generation.number) == (machine.node, machine.node, 1)


async def test_unknown_nodes_generations_and_tenants_are_refused_alike(world: World, machine: Machine) -> None:
    details = set()
    for tenant, node, number in (
        (world.tenant, NOBODY, 1),
        (world.tenant, machine.node, 2),
        (STRANGER, machine.node, 1),
    ):
        with pytest.raises(NodeUnknown) as refused:
            await load(world.stores.nodes, tenant, node, number)
        details.add(refused.value.detail)
        with pytest.raises(NotFound, match="no such thing"):
            await load(world.stores.nodes, tenant, node, number, lambda: NotFound("no such thing"))
    assert len(details) == 1
