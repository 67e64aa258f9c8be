"""`cloud.fabric.service.operators.standing`: changes by operators, and the statements that the node gets."""

from datetime import timedelta

import msgspec
import pytest

from cloud.fabric import errors
from cloud.fabric.licensing.standing import Change
from protocol.messages.sessions import Ask, StatementAnswer
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.fabric.support import ALICE, NONCE, Machine, World, change


async def test_suspend_and_resume(world: World) -> None:
    machine = Machine(world)
    first = await machine.join((await world.code()).secret)
    peer = await machine.peer()
    assert (await change(world, machine, "suspend", "unpaid")).standing == "suspended"
    suspended = await machine.refresh(peer)
    assert isinstance(suspended, Suspension)
    assert (suspended.reason, suspended.seq) == ("unpaid", first.seq + 1)
    await change(world, machine, "suspend", "again")
    assert await machine.refresh(peer) == suspended
    assert world.statement((await machine.session()).current.statement) == suspended
    world.clock.forward(timedelta(days=2))
    peer = await machine.peer()
    assert await machine.refresh(peer) == suspended
    await change(world, machine, "resume")
    resumed = await machine.refresh(peer)
    assert isinstance(resumed, Lease)
    assert resumed.seq == suspended.seq + 1
    assert (await world.actions(machine.node))[-2:] == ["node.suspend", "node.resume"]


async def test_suspension_is_carried_over(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.join(code.secret)
    await change(world, machine, "suspend", "unpaid")
    second = await machine.join(code.secret)
    assert isinstance(second, Suspension)
    assert (second.generation, second.reason) == (2, "unpaid")


async def test_a_revoked_node_gets_its_revocation_and_stays_revoked(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.join(code.secret)
    peer = await machine.peer()
    assert await world.stores.nodes.generation_open(peer.tenant, peer.node, peer.generation)
    view = await change(world, machine, "revoke", "stolen")
    assert (view.standing, view.closing, view.seat_held) == ("revoked", True, True)
    assert not await world.stores.nodes.generation_open(peer.tenant, peer.node, peer.generation)
    with pytest.raises(errors.GenerationClosed) as refused:
        await machine.session()
    answer = StatementAnswer(refused.value.statement, refused.value.freshness)
    revocation = world.verified(answer, peer)
    assert isinstance(revocation, Revocation)
    assert revocation.reason == "revoked"
    with pytest.raises(errors.GenerationClosed):
        await world.parts.nodes.statements.statement(peer, Ask(NONCE))
    assert world.statement((await world.parts.nodes.statements.closed_answer(peer)).statement) == revocation
    with pytest.raises(errors.GenerationClosed):
        await machine.session()
    assert (await world.actions(machine.node)).count("revocation.delivered") == 1
    await change(world, machine, "revoke")
    assert (await world.actions(machine.node)).count("node.revoke") == 1
    for what in ("suspend", "resume", "release"):
        with pytest.raises(errors.Conflict):
            await change(world, machine, what)


async def test_only_a_code_made_for_it_readmits_a_revoked_node(world: World) -> None:
    code = await world.code(seats=3)
    machine = Machine(world)
    await machine.join(code.secret)
    await change(world, machine, "revoke")
    world.clock.forward(timedelta(seconds=1))
    plain = await world.code()
    for text in (code.secret, plain.secret):
        with pytest.raises(errors.NodeRevoked):
            await Machine(world).activate(text)
    readmit = await world.code(readmit=machine.node)
    with pytest.raises(errors.CodeRefused):
        await Machine(world, "another ek").activate(readmit.secret)
    again = Machine(world)
    lease = await again.join(readmit.secret)
    assert isinstance(lease, Lease)
    assert (again.node, lease.generation) == (machine.node, 2)
    assert (await world.node(machine.node)).standing == "active"
    assert (await world.seats_taken(code), await world.seats_taken(readmit)) == (1, 0)
    await change(world, machine, "revoke")
    with pytest.raises(errors.NodeRevoked):
        await Machine(world).activate(readmit.secret)


@pytest.mark.parametrize(
    ("changes", "standing"), [((), "active"), (("suspend",), "suspended"), (("release",), "released")]
)
async def test_only_a_revoked_node_gets_a_code_that_readmits_it(
    world: World, changes: tuple[Change, ...], standing: str
) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    for what in changes:
        await change(world, machine, what)
    with pytest.raises(errors.Conflict, match=f"{machine.node} is {standing}, not revoked; any open code"):
        await world.code(readmit=machine.node)


async def test_revoking_again_ends_a_readmission_on_its_way(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    await change(world, machine, "revoke")
    world.clock.forward(timedelta(seconds=1))
    again = Machine(world)
    await again.activate((await world.code(readmit=machine.node)).secret)
    peer = await again.peer()
    await change(world, machine, "revoke", "no, really")
    with pytest.raises(errors.GenerationClosed):
        await world.parts.nodes.confirmations.confirm(peer, Ask(NONCE))
    assert (await world.activation_of(machine.node, 2)).state == "superseded"


async def test_release_frees_the_seat_at_once(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.join(code.secret)
    assert (await change(world, machine, "release")).seat_held is False
    assert await world.seats_taken(code) == 0
    other = Machine(world, "another ek")
    await other.join(code.secret)
    with pytest.raises(errors.SeatsExhausted):
        await Machine(world).activate(code.secret)
    free = await world.code()
    back = Machine(world)
    assert isinstance(await back.join(free.secret), Lease)
    assert back.node == machine.node


async def test_a_change_of_an_unknown_node_is_not_found(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    ghost = msgspec.structs.replace(
        machine.activated, node=machine.node[:-1] + ("1" if machine.node.endswith("0") else "0")
    )  # type: ignore[type-var]
    with pytest.raises(errors.NotFound):
        await world.parts.operators.standings.change(ALICE, ghost.node, "revoke", "")  # type: ignore[union-attr]
