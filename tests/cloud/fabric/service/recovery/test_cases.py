"""`cloud.fabric.service.recovery.cases`: a machine gets its node back, in its seat, with one case and its trail."""

from datetime import timedelta

import pytest

from cloud.fabric import errors
from cloud.fabric.bodies.hardware import SetTiers
from protocol.ids import make_id
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.signed.statements import Lease, Revocation
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.recovering import (
    OTHER_FINGERPRINT,
    allow_grace,
    case_of,
    claim,
    decide,
    recover,
    recovered,
    replacement,
    seats,
    send,
    start,
    waits,
)
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import ALICE, Machine, World, change, run_once

pytestmark = pytest.mark.slow

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_the_same_chip_recovers_with_a_code(world: World, machine: Machine) -> None:
    """OS reinstalled. The node, its seat and its terms stay; the old generation is closed in the confirm."""
    node, first = machine.node, await world.node(machine.node)
    code = (await issue(world, node=node)).codes[0]
    lease = await recovered(machine, claim(node), code.secret)
    assert isinstance(lease, Lease)
    after, case = await world.node(node), await case_of(world, node)
    assert (lease.node, lease.generation, lease.profile, lease.entitlements) == (node, 2, "standard", ("press",))
    assert (after.code, after.seat_held, after.ek_hash, await seats(world, node)) == (
        first.code,
        True,
        first.ek_hash,
        1,
    )
    assert (after.current_generation, after.closed_up_to, after.overlap_until) == (2, 1, first.lease_until)
    assert (case.state, case.situation, case.code, case.generation) == ("consumed", "reinstalled", code.code.id, 2)
    assert (case.old_generation, case.overlap_until) == (1, first.lease_until)
    assert isinstance(world.statement((await world.generation(node, 1)).statement), Revocation)
    assert await world.actions(case.id) == ["recovery.opened", "recovery.consumed"]
    assert (await world.parts.operators.tenants.show(world.tenant)).overlap_until == first.lease_until
    with pytest.raises(errors.RecoveryCodeRefused, match="used"):
        await recover(machine, claim(node), code.secret)
    assert (await world.node(node)).last_generation == 2


async def test_the_chip_alone_waits_until_a_person_approves(world: World, machine: Machine) -> None:
    node = machine.node
    challenge, body = await waits(machine, claim(node, situation="tpm-cleared"))
    answer = await send(machine, challenge, body)
    assert isinstance(answer, AwaitedApproval)
    case = await case_of(world, node)
    awaited = answer.recovery
    assert awaited
    assert (awaited.case, awaited.state, awaited.needs) == (case.id, "needs_operator", "operator-or-code")
    assert (case.situation, case.decide_by - case.opened_at) == ("tpm-cleared", 14 * DAY)
    assert (await world.node(node)).last_generation == 1, "nothing has changed yet"
    await decide(world, case.id, "approved", "seen on site")
    assert isinstance(await send(machine, challenge, body), Activated)
    assert isinstance(await machine.confirm(), Lease)
    case = await case_of(world, node)
    assert (case.state, case.decided_by, await seats(world, node)) == ("consumed", "tok_alice", 1)
    actions = await world.actions(case.id)
    assert actions == ["recovery.opened", "recovery.approved", "recovery.continued", "recovery.consumed"]


async def test_another_chip_becomes_that_of_the_node_at_the_confirm(world: World, machine: Machine) -> None:
    node, old = machine.node, (await world.node(machine.node)).ek_hash
    new = replacement(machine)
    code = (await issue(world, node=node)).codes[0]
    assert isinstance(await recover(new, claim(node), code.secret), Activated)
    assert (await world.node(node)).ek_hash == old, "not before the confirm"
    lease = await new.confirm()
    case = await case_of(world, node)
    assert (case.situation, case.old_ek_hash, lease.generation) == ("hardware-replaced", old, 2)
    assert (await world.node(node)).ek_hash == case.ek_hash != old
    assert await seats(world, node) == 1


async def test_a_statement_names_the_node_and_proves_nothing(world: World, machine: Machine) -> None:
    new = replacement(machine)
    new.fingerprint = OTHER_FINGERPRINT
    await waits(new, claim(statement=machine.held))
    case = await case_of(world, machine.node)
    assert (case.evidence.statement, case.evidence.same_chip, case.evidence.fingerprint) == (True, False, "mismatch")
    assert case.state == "needs_operator"


async def test_a_machine_that_shows_nothing_of_the_node_changes_nothing(world: World, machine: Machine) -> None:
    stranger = replacement(machine)
    stranger.fingerprint = OTHER_FINGERPRINT
    with pytest.raises(errors.RecoveryRefused, match="0 of 25 of the enrolled weight"):
        await recover(stranger, claim(machine.node))
    assert await world.stores.recovery_cases.latest(machine.node) is None
    assert (await world.node(machine.node)).last_generation == 1
    entry = (await world.stores.audit.page("", machine.node, "", "aud_8", 1))[0]
    assert (entry.action, entry.outcome) == ("recovery.refused", "refused")
    for named in (claim(), claim(make_id("node", 9, bytes(10))), claim(statement="x.y.z")):
        with pytest.raises(errors.RecoveryRefused):
            await start(stranger, named)


async def test_the_tpm_of_another_node_does_not_recover(world: World, machine: Machine) -> None:
    other = Machine(world, "another node")
    await other.join((await world.code()).secret)
    with pytest.raises(errors.RecoveryRefused, match=f"that of the node {other.node}"):
        await recover(other, claim(machine.node))


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_grace_lease_closes_the_old_generation_and_has_no_grace(world: World, machine: Machine) -> None:
    await allow_grace(world)
    node, new = machine.node, replacement(machine)
    lease = await recovered(new, claim(node, situation="hardware-replaced"))
    case = await case_of(world, node)
    assert isinstance(lease, Lease)
    assert lease.recovery == case.id
    assert lease.expires_at == lease.grace_until == lease.terminate_at == world.clock() + 72 * HOUR
    assert (case.state, case.grace, case.grace_until) == ("eligible", True, lease.terminate_at)
    assert (await world.generation(node, 1)).state == "closed"
    assert (await world.node(node)).overlap_until == case.overlap_until != lease.terminate_at
    peer = await new.peer()
    world.clock.forward(50 * HOUR)
    later = await new.refresh(peer)
    assert isinstance(later, Lease)
    assert later.terminate_at == lease.terminate_at, "a refresh does not extend it"
    world.clock.forward(30 * HOUR)
    peer = await new.peer()
    assert await new.refresh(peer) == later, "nothing follows after its end"
    await decide(world, case.id, "approved")
    ordinary = await new.refresh(peer)
    assert isinstance(ordinary, Lease)
    assert not ordinary.recovery
    assert ordinary.terminate_at > ordinary.expires_at
    assert ordinary.generation == 2
    assert (await case_of(world, node)).state == "consumed"


async def test_the_quota_is_counted_by_tenant_and_by_node(world: World, machine: Machine) -> None:
    await allow_grace(world)
    other = Machine(world, "another node")
    await other.join((await world.code()).secret)
    await recovered(replacement(machine), claim(machine.node))
    await waits(replacement(other, "its new board"), claim(other.node))
    case = await case_of(world, other.node)
    assert (case.state, "used up" in case.reason) == ("needs_operator", True)
    assert case.next_allowed_at == world.clock() + 90 * DAY
    await allow_grace(world, 5)
    await decide(world, (await case_of(world, machine.node)).id, "approved")
    world.clock.forward(HOUR)
    await waits(replacement(machine, "a third board"), claim(machine.node))
    assert "had a grace lease" in (await case_of(world, machine.node)).reason


async def test_a_node_that_was_silent_gets_no_grace_lease(world: World, machine: Machine) -> None:
    await allow_grace(world)
    contact = world.clock()
    world.clock.forward(2 * DAY)
    await waits(replacement(machine), claim(machine.node))
    assert "within a day before it fell silent" in (await case_of(world, machine.node)).reason
    lease = await recovered(replacement(machine), claim(machine.node, last_ran_at=contact + 3 * HOUR))
    assert lease.recovery, "the same machine continues its case, and has found when it last ran"


async def test_a_denial_revokes_the_generation_of_a_grace_lease(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    await recovered(new, claim(machine.node))
    peer = await new.peer()
    case = await decide(world, (await case_of(world, machine.node)).id, "denied", "stolen")
    assert (case.state, case.reason, case.next_allowed_at) == ("refused", "stolen", world.clock() + 14 * DAY)
    with pytest.raises(errors.GenerationClosed) as closed:
        await new.refresh(peer)
    revocation = world.statement(closed.value.statement)
    assert isinstance(revocation, Revocation)
    assert (revocation.reason, revocation.generation) == ("revoked", 2)
    node = await world.node(machine.node)
    assert (node.standing, node.seat_held, node.closed_up_to) == ("active", True, 2)
    assert node.ek_hash == case.old_ek_hash, "the machine before is known by its chip again"
    with pytest.raises(errors.RecoveryRefused, match="stolen") as refused:
        await recover(new, claim(machine.node))
    assert refused.value.allowed_at == case.next_allowed_at
    await run_once(world)
    assert (await world.node(machine.node)).closed_at_issuer == 2


async def test_a_second_machine_waits_for_the_end_of_the_first_case(world: World, machine: Machine) -> None:
    await waits(replacement(machine), claim(machine.node))
    first = await case_of(world, machine.node)
    with pytest.raises(errors.RecoveryRefused, match="another machine") as refused:
        await recover(replacement(machine, "second"), claim(machine.node))
    assert refused.value.allowed_at == first.decide_by
    world.clock.forward(HOUR)
    challenge, _ = await waits(machine, claim(machine.node))  # its own chip is stronger evidence
    case = await case_of(world, machine.node)
    assert (case.activation, case.id != first.id) == (challenge.activation, True)
    assert (await world.parts.nodes.case_decisions.find(first.id)).state == "lapsed"


async def test_a_code_ends_the_case_of_another_machine(world: World, machine: Machine) -> None:
    await waits(replacement(machine), claim(machine.node))
    world.clock.forward(HOUR)
    code = (await issue(world, node=machine.node)).codes[0]
    second = replacement(machine, "second")
    second.fingerprint = OTHER_FINGERPRINT
    await recovered(second, claim(machine.node), code.secret)
    assert (await case_of(world, machine.node)).state == "consumed"
    assert (await world.node(machine.node)).current_generation == 2


async def test_a_case_that_waits_goes_on_with_a_code_for_it(world: World, machine: Machine) -> None:
    await waits(machine, claim(machine.node))
    case = await case_of(world, machine.node)
    code = (await issue(world, node=machine.node)).codes[0]
    assert isinstance(await recover(machine, claim(machine.node), code.secret), Activated)
    again = await recover(machine, claim(machine.node), code.secret)  # the machine has crashed before the confirm
    assert isinstance(again, Activated)
    assert again.generation == 3
    await machine.confirm()
    done = await case_of(world, machine.node)
    assert (done.id, done.state, done.code, done.generation) == (case.id, "consumed", code.code.id, 3)
    assert await world.actions(case.id) == ["recovery.opened", *["recovery.continued"] * 2, "recovery.consumed"]


async def test_a_code_of_another_node_is_refused_and_not_used_up(world: World, machine: Machine) -> None:
    other = Machine(world, "another node")
    await other.join((await world.code()).secret)
    code = (await issue(world, node=other.node)).codes[0]
    with pytest.raises(errors.RecoveryCodeRefused, match="another node"):
        await recover(machine, claim(machine.node), code.secret)
    assert "recovery.code_refused" in await world.actions(code.code.id)
    assert await recovered(other, claim(), code.secret), "the code names its node"


async def test_a_code_of_the_tenant_needs_the_fingerprint(world: World, machine: Machine) -> None:
    code = (await issue(world, tenant=world.tenant)).codes[0]
    changed = replacement(machine)
    changed.fingerprint = OTHER_FINGERPRINT
    with pytest.raises(errors.RecoveryCodeRefused, match="fingerprint"):
        await recover(changed, claim(machine.node), code.secret)
    assert await world.stores.recovery_cases.latest(machine.node) is None
    await recovered(machine, claim(), code.secret)  # its own chip names the node
    assert (await case_of(world, machine.node)).state == "consumed"


async def test_a_revocation_between_proof_and_confirm_ends_the_recovery(world: World, machine: Machine) -> None:
    code = (await issue(world, node=machine.node)).codes[0]
    assert isinstance(await recover(machine, claim(machine.node), code.secret), Activated)
    await change(world, machine, "revoke")
    with pytest.raises(errors.GenerationClosed):
        await machine.confirm()
    with pytest.raises(errors.RecoveryRefused, match="revoked"):
        await recover(machine, claim(machine.node))
    assert (await world.node(machine.node)).standing == "revoked"


async def test_a_released_node_has_no_seat_to_give_back(world: World, machine: Machine) -> None:
    await change(world, machine, "release")
    with pytest.raises(errors.RecoveryRefused, match="released"):
        await recover(machine, claim(machine.node))


async def test_a_suspended_node_stays_suspended(world: World, machine: Machine) -> None:
    await change(world, machine, "suspend", "unpaid")
    code = (await issue(world, node=machine.node)).codes[0]
    suspension = await recovered(machine, claim(machine.node), code.secret)
    assert (type(suspension).__name__, suspension.reason) == ("Suspension", "unpaid")


async def test_a_tier_that_the_tenant_does_not_admit_recovers_nothing(world: World, machine: Machine) -> None:
    await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, SetTiers(("tpm",)))
    with pytest.raises(errors.TierNotAllowed):
        await start(machine, claim(machine.node))


@pytest.mark.parametrize("by_code", [False, True])
async def test_a_lapse_keeps_the_seat_of_a_denied_node(world: World, machine: Machine, by_code: bool) -> None:
    await allow_grace(world)
    new = replacement(machine)
    await recovered(new, claim(machine.node))
    await decide(world, (await case_of(world, machine.node)).id, "denied")
    if by_code:
        challenge = await machine.start((await world.code()).secret)
        assert isinstance(await send(machine, challenge, machine.proof(challenge)), Activated)
    else:
        code = (await issue(world, node=machine.node)).codes[0]
        assert isinstance(await recover(machine, claim(machine.node), code.secret), Activated)
    world.clock.forward(2 * DAY)
    await run_once(world)
    await run_once(world)
    assert ((await world.node(machine.node)).seat_held, await seats(world, machine.node)) == (True, 1)


async def test_a_machine_that_comes_back_too_late_opens_another_case(world: World, machine: Machine) -> None:
    """Also before the background work has ended the overdue case."""
    await waits(machine, claim(machine.node))
    overdue = await case_of(world, machine.node)
    world.clock.forward(overdue.decide_by - world.clock())
    await waits(machine, claim(machine.node))
    case = await case_of(world, machine.node)
    ended = await world.stores.recovery_cases.find(overdue.id)
    assert ended is not None
    assert (ended.state, ended.reason) == ("lapsed", f"superseded by {case.id}")
    assert (case.state, case.decide_by) == ("needs_operator", world.clock() + 14 * DAY)
