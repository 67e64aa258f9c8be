"""`cloud.fabric.service.operators.node_lists`: pages of nodes, and a node with its generations."""

import pytest

from cloud.fabric.errors import Invalid, NotFound
from protocol.ids import NodeId, make_id
from tests.cloud.fabric.support import Machine, World, change


async def test_nodes_are_listed_by_tenant_and_standing(world: World) -> None:
    code = await world.code(seats=3)
    machines = [Machine(world, f"ek {number}") for number in range(3)]
    for machine in machines:
        await machine.join(code.secret)
    await change(world, machines[1], "suspend", "unpaid")
    lists, ids = world.parts.operators.node_lists, sorted(machine.node for machine in machines)
    first = await lists.page(world.tenant, "", "", 2)
    rest = await lists.page(world.tenant, "", first.next_cursor, 2)
    assert [node.id for node in (*first.items, *rest.items)] == ids
    (suspended,) = (await lists.page("", "suspended", "", 10)).items
    assert (suspended.id, suspended.standing_reason) == (machines[1].node, "unpaid")
    unknown, operators = make_id("ten", 9, bytes(10)), world.parts.operators
    for page in (
        lists.page(unknown, "", "", 10),
        operators.clone_cases.page(unknown, "", 10),
        operators.activation_decisions.page(unknown, "", "", "", 10),
        operators.audit_lists.page(unknown, "", "", "", 10),
    ):
        with pytest.raises(NotFound, match="no such tenant"):
            await page
    with pytest.raises(NotFound, match="no such code"):
        await operators.activation_decisions.page("", make_id("code", 9, bytes(10)), "", "", 10)
    with pytest.raises(Invalid, match="standing"):
        await lists.page("", "odd", "", 10)


async def test_a_node_is_shown_with_its_newest_generations(world: World, machine: Machine) -> None:
    await Machine(world).join((await world.code()).secret)
    shown = await world.parts.operators.node_lists.detail(machine.node)
    assert shown.node.generation == 2
    assert [(entry.number, entry.state) for entry in shown.generations] == [(2, "confirmed"), (1, "closed")]
    with pytest.raises(NotFound):
        await world.parts.operators.node_lists.detail(NodeId(make_id("node", 9, bytes(10))))
