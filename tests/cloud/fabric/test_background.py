"""`cloud.fabric.background`: the task finishes work that the rows show as begun, also after failures and restarts."""

import asyncio
from datetime import timedelta

from cloud.fabric import schemas
from cloud.tasks.stopping import Stopping
from tests.cloud.fabric.support import Machine, World, background, change, run_once
from tests.waiting import until

SHORT = schemas.LeaseTerms(60, 120, 180, 240)


async def test_a_failed_close_waits_before_the_next(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    await change(world, machine, "revoke")
    asked: list[str] = []
    world.issuer.before = asked.append
    world.issuer.down = True
    made = background(world)
    now = asyncio.get_running_loop().time()
    pause = await made.run_once(now)
    back_off = made._back_off
    assert 0 < back_off.ready_at - back_off.failed_at <= 0.5
    # On a busy machine the back-off is over when the work is done.
    assert pause <= 0.5 or asyncio.get_running_loop().time() >= back_off.ready_at
    await made.run_once(now)
    assert asked == ["close"]
    await made.run_once(asyncio.get_running_loop().time() + 1)
    assert asked == ["close", "close"]


async def test_the_loop_is_woken_and_ends_with_the_process(world: World) -> None:
    stopping = Stopping()
    task = asyncio.create_task(background(world).run(stopping))
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    await change(world, machine, "revoke")

    async def closed() -> bool:
        return not (await world.node(machine.node)).closing

    await until("the closing at the issuer", closed)
    stopping.request()
    async with asyncio.timeout(2):
        await task
    assert (await world.generation(machine.node, 1)).seen_at == world.clock()


async def test_old_challenges_are_forgotten(world: World) -> None:
    challenge = await Machine(world).start((await world.code()).secret)
    world.clock.forward(timedelta(days=2))
    await run_once(world)
    assert await world.stores.activations.find(challenge.activation) is None
