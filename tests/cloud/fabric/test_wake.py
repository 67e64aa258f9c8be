"""`cloud.fabric.wake`: a waiting poll returns within a second after a change."""

import asyncio

from cloud.mtls.peer import NodePeer
from tests.cloud.fabric.support import Machine, World, change, waiting_polls
from tests.waiting import until


async def test_a_waiting_node_is_woken_by_a_change(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    peer = await machine.peer()
    cursor = (await world.parts.nodes.statements.events(peer, 0, 30)).cursor
    poll = asyncio.create_task(world.parts.nodes.statements.events(peer, cursor, 30))
    await until("the poll", lambda: waiting_polls(world) == 1)
    assert not poll.done()
    await change(world, machine, "revoke")
    async with asyncio.timeout(1):
        assert (await poll).cursor == cursor + 1


async def test_a_poll_ends_after_its_time_and_at_shutdown(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    peer: NodePeer = await machine.peer()
    cursor = (await world.parts.nodes.statements.events(peer, 0, 0)).cursor
    assert (await world.parts.nodes.statements.events(peer, cursor, 0.05)).cursor == cursor
    poll = asyncio.create_task(world.parts.nodes.statements.events(peer, cursor, 30))
    await until("the poll", lambda: waiting_polls(world) == 1)
    world.parts.shared.wake_room.close()
    async with asyncio.timeout(1):
        await poll
        await world.parts.nodes.statements.events(peer, cursor, 30)
