"""`cloud.fabric.service.nodes.confirm`: confirm and refresh over real rows and a real issuer."""

from datetime import timedelta

import msgspec
import pytest

from cloud.fabric import errors
from protocol.limits import SEQ_JUMP_MAX
from protocol.messages.sessions import Ask
from protocol.signed.statements import Lease
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


async def test_a_presented_statement_ahead_is_outbid(world: World) -> None:
    machine = Machine(world)
    first = await machine.join((await world.code()).secret)
    peer = await machine.peer()
    ahead = msgspec.structs.replace(first, seq=first.seq + 10)
    machine.held = world.signer.statement(ahead)
    assert (await machine.refresh(peer)).seq == first.seq + 11
    for ignored in (
        world.signer.statement(msgspec.structs.replace(first, seq=first.seq + 12 + SEQ_JUMP_MAX)),
        world.signer.statement(
            msgspec.structs.replace(first, seq=500, node=first.node[:-1] + ("1" if first.node.endswith("0") else "0"))
        ),
        machine.held[:-4] + "AAAA",
        "no token",
    ):
        machine.held = ignored
        assert (await machine.refresh(peer)).seq == first.seq + 11


@pytest.mark.parametrize("nonce", ["", "n" * 15, "n" * 129])
async def test_nonces_of_the_asker_are_bounded(world: World, nonce: str) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    with pytest.raises(errors.Invalid):
        await world.parts.nodes.statements.statement(await machine.peer(), Ask(nonce))
