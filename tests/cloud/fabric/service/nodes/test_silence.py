"""`cloud.fabric.service.nodes.silence`: a node that is online keeps its licence, whatever another machine reports."""

from datetime import timedelta

import pytest

from cloud.fabric import errors
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.signed.statements import Lease
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.recovering import (
    allow_grace,
    case_of,
    claim,
    decide,
    recover,
    recovered,
    replacement,
    send,
    up,
    waits,
)
from tests.cloud.fabric.support import Machine, World

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("contact", ["session", "statement", "poll"])
async def test_a_contact_of_the_node_ends_the_grace(world: World, machine: Machine, contact: str) -> None:
    await allow_grace(world, silence_minutes=120)
    peer, new = await machine.peer(), replacement(machine)
    challenge, body = await waits(new, claim(machine.node))
    case = await case_of(world, machine.node)
    assert (case.state, case.grace, case.silent_until) == ("eligible", True, world.clock() + 2 * HOUR)
    assert "silent until" in case.reason
    await up(world, HOUR)
    if contact == "session":
        await machine.session()
    elif contact == "statement":
        await machine.refresh(peer)
    else:
        await world.parts.nodes.statements.events(peer, 0, 0)
    case = await case_of(world, machine.node)
    assert (case.state, case.grace, case.silent_until) == ("needs_operator", False, None)
    assert "the node was online" in case.reason
    assert (await world.node(machine.node)).silent_until is None
    assert (await world.actions(case.id))[-1] == "recovery.node_online"
    await up(world, 2 * HOUR)
    for _ in range(2):
        assert isinstance(await send(new, challenge, body), AwaitedApproval)
    assert isinstance(await machine.refresh(peer), Lease)
    # It is no used grace lease, and a person may still decide.
    await decide(world, case.id, "approved", "the board was replaced")
    assert isinstance(await send(new, challenge, body), Activated)
    lease = await new.confirm()
    assert isinstance(lease, Lease)
    assert not lease.recovery


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_silent_node_gets_its_grace_lease_without_a_person(world: World, machine: Machine) -> None:
    await allow_grace(world, silence_minutes=120)
    peer, new = await machine.peer(), replacement(machine)
    challenge, body = await waits(new, claim(machine.node))
    await up(world, 2 * HOUR - timedelta(seconds=1))
    assert isinstance(await send(new, challenge, body), AwaitedApproval)
    with pytest.raises(errors.RecoveryRefused, match="another machine asks"):
        await recover(replacement(machine, "a third chip"), claim(machine.node))
    await up(world, timedelta(seconds=1))
    assert isinstance(await send(new, challenge, body), AwaitedApproval)
    assert isinstance(await send(new, challenge, body), Activated)
    lease, case = await new.confirm(), await case_of(world, machine.node)
    assert isinstance(lease, Lease)
    assert lease.recovery == case.id
    assert lease.terminate_at == case.grace_until == world.clock() + 72 * HOUR
    assert "recovery.node_silent" in await world.actions(case.id)
    with pytest.raises(errors.GenerationClosed):
        await machine.refresh(peer)
    await new.session()
    assert ((await case_of(world, machine.node)).state, (await world.node(machine.node)).silent_until) == (
        "eligible",
        None,
    )


async def test_a_machine_that_starts_again_waits_for_the_same_end(world: World, machine: Machine) -> None:
    await allow_grace(world, silence_minutes=120)
    new = replacement(machine)
    await waits(new, claim(machine.node))
    first = await case_of(world, machine.node)
    await up(world, HOUR)
    await waits(new, claim(machine.node))
    second = await case_of(world, machine.node)
    assert (second.id, second.silent_until) == (first.id, first.silent_until)
    await up(world, HOUR)
    assert (await recovered(new, claim(machine.node))).recovery == first.id


async def test_a_node_that_comes_back_before_the_confirm_keeps_its_licence(world: World, machine: Machine) -> None:
    await allow_grace(world, silence_minutes=120)
    peer, new = await machine.peer(), replacement(machine)
    challenge, body = await waits(new, claim(machine.node))
    await up(world, 2 * HOUR)
    answers = [type(await send(new, challenge, body)) for _ in range(2)]
    assert answers == [AwaitedApproval, Activated]
    await machine.refresh(peer)
    with pytest.raises(errors.RecoveryRefused):
        await new.confirm()
    assert isinstance(await machine.refresh(peer), Lease)
    assert (await world.node(machine.node)).current_generation == 1


async def test_the_chip_of_the_node_waits_for_no_silence(world: World, machine: Machine) -> None:
    """It is the node's own chip, so no other machine can be online."""
    await allow_grace(world, silence_minutes=120)
    lease = await recovered(machine, claim(machine.node))
    assert lease.terminate_at == world.clock() + 72 * HOUR
