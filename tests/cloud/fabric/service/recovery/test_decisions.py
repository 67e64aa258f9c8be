"""`cloud.fabric.service.recovery.decisions`: what an operator's decision changes, and what no decision changes."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from cloud.fabric import errors
from cloud.fabric.service.recovery import decisions
from protocol.ids import ActivationId, NodeId, RecoveryId
from protocol.messages.activation import Activated
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
    seats,
    send,
    waits,
)
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import Machine, World, change, run_once
from tests.cloud.fabric.support import decide as decide_activation

pytestmark = pytest.mark.slow

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


async def test_a_denied_machine_gets_the_reason_and_the_time(world: World, machine: Machine) -> None:
    challenge, body = await waits(machine, claim(machine.node))
    case = await decide(world, (await case_of(world, machine.node)).id, "denied", "not one of ours")
    with pytest.raises(errors.RecoveryRefused, match="not one of ours") as refused:
        await send(machine, challenge, body)
    assert refused.value.allowed_at == case.next_allowed_at == world.clock() + 14 * DAY
    with pytest.raises(errors.RecoveryRefused, match="not one of ours"):
        await recover(machine, claim(machine.node))
    assert (await world.node(machine.node)).last_generation == 1
    with pytest.raises(errors.Conflict, match="refused"):
        await decide(world, case.id, "denied")
    world.clock.forward(14 * DAY)
    await waits(machine, claim(machine.node))


async def test_an_operator_may_approve_what_was_denied(world: World, machine: Machine) -> None:
    await waits(machine, claim(machine.node))
    case = await decide(world, (await case_of(world, machine.node)).id, "denied")
    await decide(world, case.id, "approved", "it is ours after all")
    assert isinstance(await recovered(machine, claim(machine.node)), Lease)
    assert (await case_of(world, machine.node)).id == case.id


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_denial_revokes_the_code_of_the_case_and_no_other(world: World, machine: Machine) -> None:
    """The operator has read out a code on the phone, and then denies: the refused machine must not go on with it."""
    new = replacement(machine)
    await waits(new, claim(machine.node))
    case = await case_of(world, machine.node)
    other = (await issue(world, node=machine.node)).codes[0]
    read_out = (await issue(world, case=case.id)).codes[0]
    await decide(world, case.id, "denied", "not our caller")
    assert (await world.actions(read_out.code.id))[-1] == "recovery.code_revoked"
    world.clock.forward(DAY)
    with pytest.raises(errors.RecoveryCodeRefused, match="revoked"):
        await recover(new, claim(machine.node), read_out.secret)
    assert (await world.node(machine.node)).last_generation == 1
    assert isinstance(await recovered(machine, claim(machine.node), other.secret), Lease)


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_undecided_and_unused_cases_lapse(world: World, machine: Machine) -> None:
    challenge, body = await waits(machine, claim(machine.node))
    case = await case_of(world, machine.node)
    world.clock.forward(14 * DAY - HOUR)
    await run_once(world)
    assert (await case_of(world, machine.node)).state == "needs_operator"
    await decide(world, case.id, "approved")
    world.clock.forward(14 * DAY)
    await run_once(world)
    assert (await case_of(world, machine.node)).state == "lapsed"
    with pytest.raises((errors.RecoveryRefused, errors.ApprovalExpired)):
        await send(machine, challenge, body)
    for decision in ("approved", "denied"):
        with pytest.raises(errors.Conflict, match="lapsed"):
            await decide(world, case.id, decision)
    assert (await world.actions(case.id))[-1] == "recovery.lapsed"
    await waits(machine, claim(machine.node))


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_broken_case_stops_no_other_one_and_is_logged_with_a_bound(
    world: World, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await waits(machine, claim(machine.node))
    case = await case_of(world, machine.node)
    monkeypatch.setattr(decisions, "ROWS_MAX", 2)
    cases = world.parts.stores.recovery_cases
    # More cases than one page has come first, and their nodes are gone.
    for number in range(3):
        broken = replace(
            case, id=RecoveryId(f"rcv_0{number}"), node=NodeId(f"node_0{number}"), activation=ActivationId("")
        )
        async with world.parts.stores.engine.transaction():
            await cases.insert(broken)
    world.clock.forward(14 * DAY)
    for _ in range(5):
        await run_once(world)
    assert (await case_of(world, machine.node)).state == "lapsed"
    found = await cases.find(RecoveryId("rcv_00"))
    assert found is not None
    assert found.state == case.state
    texts = [record for record in caplog.records if record.message == "cannot end an overdue recovery"]
    assert [vars(record)["case"] for record in texts] == ["rcv_00"]


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_grace_lease_that_nobody_decided_about_leaves_the_node_its_chip(world: World, machine: Machine) -> None:
    await allow_grace(world)
    chip = (await world.node(machine.node)).ek_hash
    new = replacement(machine)
    grace = await recovered(new, claim(machine.node))
    first = await case_of(world, machine.node)
    assert (await world.node(machine.node)).ek_hash == first.ek_hash != chip
    world.clock.forward(14 * DAY)
    await run_once(world)
    assert ((await case_of(world, machine.node)).state, (await world.node(machine.node)).ek_hash) == ("lapsed", chip)
    # The machine gets no other lease, and asks again as a machine with another chip.
    assert await new.refresh(await new.peer()) == grace
    await waits(new, claim(machine.node))
    second = await case_of(world, machine.node)
    assert (second.id != first.id, second.evidence.same_chip, second.state) == (True, False, "needs_operator")
    await decide(world, second.id, "denied", "not ours")
    # The machine before is the node, with its chip and a code.
    code = (await issue(world, node=machine.node)).codes[0]
    assert isinstance(await recovered(machine, claim(machine.node), code.secret), Lease)
    assert ((await world.node(machine.node)).ek_hash, await seats(world, machine.node)) == (chip, 1)


async def test_a_decision_before_the_confirm_of_a_grace_lease_counts(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    assert isinstance(await recover(new, claim(machine.node)), Activated)
    await decide(world, (await case_of(world, machine.node)).id, "approved")
    lease = await new.confirm()
    assert isinstance(lease, Lease)
    assert not lease.recovery
    assert (await case_of(world, machine.node)).state == "consumed"


async def test_a_code_for_a_denied_case_brings_no_grace_back(world: World, machine: Machine) -> None:
    """The operator denies, and issues a code for the case to the right person. The denied machine does not have it."""
    await allow_grace(world)
    new = replacement(machine)
    await recovered(new, claim(machine.node))
    case = await decide(world, (await case_of(world, machine.node)).id, "denied", "not ours")
    code = (await issue(world, case=case.id)).codes[0]
    await waits(new, claim(machine.node))
    assert (await world.node(machine.node)).last_generation == 2
    assert isinstance(await recovered(machine, claim(machine.node), code.secret), Lease)


async def test_a_denial_before_the_confirm_ends_the_generation(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    assert isinstance(await recover(new, claim(machine.node)), Activated)
    await decide(world, (await case_of(world, machine.node)).id, "denied")
    with pytest.raises(errors.GenerationClosed):
        await new.confirm()
    await run_once(world)
    assert isinstance(await machine.refresh(await machine.peer()), Lease), "the machine in force goes on"
    assert (await world.node(machine.node)).seat_held


async def test_a_node_that_was_revoked_meanwhile_is_not_approved(world: World, machine: Machine) -> None:
    await waits(machine, claim(machine.node))
    await change(world, machine, "revoke")
    with pytest.raises(errors.Conflict, match="revoked"):
        await decide(world, (await case_of(world, machine.node)).id, "approved")


async def test_the_list_of_activations_sends_the_operator_to_the_case(world: World, machine: Machine) -> None:
    challenge, _ = await waits(machine, claim(machine.node))
    case = await case_of(world, machine.node)
    shown = await world.parts.operators.activation_decisions.show(challenge.activation)
    assert (shown.recovery, shown.code, shown.state) == (case.id, "", "pending")
    with pytest.raises(errors.Conflict, match=f"decide about the case {case.id}"):
        await decide_activation(world, challenge.activation, "approved")
