"""`cloud.fabric.service.nodes.closing`: Breakwater is asked to close generations until it has closed them."""

from datetime import timedelta
from pathlib import Path

from cloud.fabric.errors import IssuerRefused
from protocol.ids import NodeId, TenantId
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.support import Machine, World, background, change, run_once, world_at


async def test_closing_is_repeated_until_it_is_done(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        machine = Machine(world)
        await machine.join((await world.code()).secret)
        await change(world, machine, "revoke")
        world.issuer.down = True
        made = background(world)
        await run_once(world, made)
        await run_once(world, made)
        assert (await world.node(machine.node)).closing
        tenant, node = machine.activated.tenant, machine.node  # type: ignore[union-attr]
    # A restart: only the rows remain.
    clock.forward(timedelta(seconds=1))
    async with world_at(home, databases, clock, first=False) as world:
        assert await world.issuer.generations.is_open(tenant, node, 1)
        await run_once(world)
        row = await world.node(node)
        assert (row.closing, row.closed_at_issuer) == (False, 1)
        assert not await world.issuer.generations.is_open(tenant, node, 1)
        assert (await world.actions(node))[-1] == "generation.closed_at_issuer"
        calls = list(world.issuer.calls)
        await run_once(world)
        assert world.issuer.calls == calls


async def test_a_node_that_the_issuer_refuses_does_not_stop_the_others(world: World) -> None:
    code = await world.code(seats=2)
    machines = [Machine(world, label) for label in ("ek", "another ek")]
    for machine in machines:
        await machine.join(code.secret)
        await change(world, machine, "revoke")
    first, second = sorted(machine.node for machine in machines)
    close = world.issuer.close_generations

    async def refuse_the_first(tenant: TenantId, node: NodeId, up_to: int) -> None:
        if node == first:
            raise IssuerRefused("conflict", "this node belongs to another tenant")
        await close(tenant, node, up_to)

    world.issuer.close_generations = refuse_the_first  # type: ignore[method-assign]
    await run_once(world)
    assert [(await world.node(node)).closing for node in (first, second)] == [True, False]
