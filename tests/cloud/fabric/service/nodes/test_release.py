"""`cloud.fabric.service.nodes.release`: a machine hands its seat back, and no copy, guest or suspension profits by it."""

import pytest

from cloud.fabric import errors
from cloud.fabric.service.nodes.release import REASON
from cloud.mtls.peer import NodePeer
from protocol.messages.sessions import Ask
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.copies import Box
from tests.cloud.fabric.recovering import allow_grace, claim, recovered, replacement
from tests.cloud.fabric.support import NONCE, Machine, World, change


async def release(world: World, peer: NodePeer) -> Revocation:
    answer = await world.parts.nodes.releases.release(peer, Ask(NONCE))
    revocation = world.verified(answer, peer)
    assert isinstance(revocation, Revocation)
    return revocation


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_node_hands_its_seat_back_once(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    lease = await machine.join(code.secret)
    peer = await machine.peer()
    revocation = await release(world, peer)
    assert (revocation.reason, revocation.generation, revocation.seq) == ("released", 1, lease.seq + 1)
    node = await world.node(machine.node)
    assert (node.standing, node.standing_reason, node.seat_held, node.closed_up_to) == ("released", REASON, False, 1)
    assert node.overlap_until == node.lease_until, "a copy of the state may run offline until then"
    assert await world.seats_taken(code) == 0
    with pytest.raises(errors.GenerationClosed) as again:
        await release(world, peer)
    assert world.statement(again.value.statement) == revocation
    assert (await world.actions(machine.node)).count("node.release") == 1
    await Machine(world, "another ek").join(code.secret)
    assert await world.seats_taken(code) == 1
    back = await Machine(world).join((await world.code()).secret)
    assert isinstance(back, Lease)
    assert (back.node, back.generation) == (machine.node, 2)


async def test_a_release_does_not_end_a_suspension(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.join(code.secret)
    await change(world, machine, "suspend", "unpaid")
    assert (await release(world, await machine.peer())).reason == "released"
    node = await world.node(machine.node)
    assert (node.standing, node.standing_reason, node.seat_held) == ("suspended", "unpaid", False)
    assert await world.seats_taken(code) == 0
    back = await machine.join(code.secret)
    assert isinstance(back, Suspension)
    assert (back.generation, back.reason, await world.seats_taken(code)) == (2, "unpaid", 1)


async def test_an_unconfirmed_generation_decides_nothing(world: World, machine: Machine) -> None:
    again = Machine(world)
    await again.activate((await world.code()).secret)
    assert again.node == machine.node
    with pytest.raises(errors.Conflict, match="not confirmed"):
        await release(world, await again.peer())
    assert isinstance(await machine.refresh(await machine.peer()), Lease)


async def test_none_of_several_holders_of_a_key_decides(world: World, machine: Machine) -> None:
    box = Box(world, machine)
    await box.session()
    await world.parts.nodes.seen.store()
    twin = box.copy()
    for each in (box, twin):
        await each.session()
        await world.parts.nodes.seen.store()
    session = await box.session()
    await world.parts.nodes.seen.store()
    await twin.refused()
    before = await world.node(machine.node)
    assert before.clone_cause
    with pytest.raises(errors.Conflict, match="clone"):
        await release(world, world.peer(session.certificate_chain[0]))
    assert await world.node(machine.node) == before


async def test_a_machine_on_a_grace_lease_does_not_decide(world: World, machine: Machine) -> None:
    await allow_grace(world)
    guest = replacement(machine)
    await recovered(guest, claim(machine.node, situation="hardware-replaced"))
    with pytest.raises(errors.Conflict, match="recovery of this machine is not approved"):
        await release(world, await guest.peer())
    assert (await world.node(machine.node)).standing == "active"
