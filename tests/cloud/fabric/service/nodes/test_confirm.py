"""`cloud.fabric.service.nodes.confirm`: a confirmed generation becomes the node's current one."""

import pytest

from cloud.fabric import errors
from protocol.messages.sessions import Ask
from tests.cloud.fabric.support import NONCE, Machine, World


async def test_confirm_is_idempotent(world: World) -> None:
    machine = Machine(world)
    first = await machine.join((await world.code()).secret)
    peer = await machine.peer()
    again = await world.parts.nodes.confirmations.confirm(peer, Ask(NONCE, machine.held))
    assert world.verified(again, peer) == first
    assert (await world.node(machine.node)).seq == first.seq


async def test_an_unconfirmed_generation_can_only_confirm(world: World) -> None:
    machine = Machine(world)
    await machine.activate((await world.code()).secret)
    peer = await machine.peer()
    with pytest.raises(errors.Conflict):
        await world.parts.nodes.statements.statement(peer, Ask(NONCE))
    with pytest.raises(errors.Conflict):
        await world.parts.nodes.statements.events(peer, 0, 0)
    assert (await machine.confirm()).generation == 1
