"""`cloud.fabric.background`: what is begun is driven on from the rows, whatever happened in between."""

import asyncio
from datetime import timedelta
from pathlib import Path

from cloud.fabric import schemas
from cloud.fabric.errors import IssuerRefused
from cloud.tasks.stopping import Stopping
from protocol.ids import NodeId, TenantId
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.support import Machine, World, background, change, run_once, world_at

SHORT = schemas.LeaseTerms(60, 120, 180, 240)


async def test_closing_is_driven_until_it_is_done(home: Path, databases: Path) -> None:
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
    # A restart: nothing is remembered but the rows.
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


async def test_a_failed_close_waits_before_the_next(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    await change(world, machine, "revoke")
    asked: list[str] = []
    world.issuer.before = asked.append
    world.issuer.down = True
    made = background(world)
    now = asyncio.get_running_loop().time()
    assert await made.run_once(now) <= 0.5
    await made.run_once(now)
    assert asked == ["close"]
    await made.run_once(now + 1)
    assert asked == ["close", "close"]


async def test_a_node_that_the_issuer_refuses_holds_up_no_other(world: World) -> None:
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


async def test_the_loop_is_woken_and_ends_with_the_process(world: World) -> None:
    stopping = Stopping()
    task = asyncio.create_task(background(world).run(stopping))
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    await change(world, machine, "revoke")
    for _ in range(200):
        if not (await world.node(machine.node)).closing:
            break
        await asyncio.sleep(0.01)
    assert not (await world.node(machine.node)).closing
    stopping.request()
    async with asyncio.timeout(2):
        await task
    assert (await world.generation(machine.node, 1)).seen_at == world.clock()


async def test_the_seat_of_a_revoked_node_is_free_when_its_last_lease_terminated(world: World) -> None:
    code = await world.code(lease=SHORT)
    machine = Machine(world)
    await machine.join(code.secret)
    await change(world, machine, "revoke")
    world.clock.forward(timedelta(seconds=239))
    await run_once(world)
    assert await world.seats_taken(code) == 1
    world.clock.forward(timedelta(seconds=1))
    await run_once(world)
    await run_once(world)
    assert await world.seats_taken(code) == 0
    assert (await world.node(machine.node)).seat_held is False
    assert (await world.actions(machine.node)).count("seat.freed") == 1


async def test_old_challenges_are_forgotten(world: World) -> None:
    challenge = await Machine(world).start((await world.code()).secret)
    world.clock.forward(timedelta(days=2))
    await run_once(world)
    assert await world.stores.activations.find(challenge.activation) is None
