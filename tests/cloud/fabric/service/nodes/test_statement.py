"""`cloud.fabric.service.nodes.statement`: refreshes with real rows."""

from datetime import timedelta

from protocol.signed.statements import Lease
from tests.cloud.fabric.support import Machine, World


async def test_a_refresh_writes_only_when_the_lease_is_due(world: World) -> None:
    machine = Machine(world)
    first = await machine.join((await world.code()).secret)
    assert isinstance(first, Lease)
    peer = await machine.peer()
    world.clock.forward(timedelta(hours=11))
    assert await machine.refresh(peer) == first
    world.clock.forward(timedelta(hours=1))
    peer = await machine.peer()
    second = await machine.refresh(peer)
    assert isinstance(second, Lease)
    assert (second.seq, second.issued_at) == (first.seq + 1, world.clock())
    assert (await world.node(machine.node)).lease_until == second.terminate_at


async def test_a_session_brings_the_due_lease_too(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    world.clock.forward(timedelta(days=3))
    session = await machine.session()
    assert world.statement(session.current.statement).issued_at == world.clock()
