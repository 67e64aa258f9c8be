"""`cloud.fabric.service.activations.approval`: a proved machine waits for a person, without a seat or a node."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.service.activations.approval import retry_seconds
from cloud.fabric.service.activations.starts import FORGET_CHALLENGES_AFTER, FORGET_DECIDED_AFTER
from protocol.encoding import json_encode, sha256_hex
from protocol.ids import ActivationId, make_id
from protocol.limits import (
    APPROVAL_RETRY_SECONDS_MAX,
    APPROVAL_RETRY_SECONDS_MIN,
    APPROVE_WITHIN,
    CHALLENGE_LIFE,
)
from protocol.messages.activation import AwaitedApproval, Challenge, ProveActivation
from protocol.signed.statements import Lease
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.support import ALICE, Machine, World, change, decide, run_once

pytestmark = pytest.mark.slow

Asked = tuple[Machine, Challenge, ProveActivation]


async def ask(world: World, code: schemas.CreatedCode, label: str = "ek") -> Asked:
    """A machine whose proved activation waits."""
    machine = Machine(world, label)
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    await machine.waits(challenge, body)
    return machine, challenge, body


async def state_of(world: World, activation: ActivationId) -> str:
    return (await world.parts.operators.activation_decisions.show(activation)).state


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_an_approved_machine_continues_with_the_same_proof(world: World) -> None:
    code = await world.code(approval=True)
    machine, challenge, body = await ask(world, code)
    assert await world.stores.nodes.page("", "", "", 10) == []
    assert await world.seats_taken(code) == 0
    world.clock.forward(CHALLENGE_LIFE * 3)  # a person may take longer than the challenge lives
    again = await machine.waits(challenge, body)
    assert again.expires_at - again.asked_at == APPROVE_WITHIN
    shown = await decide(world, challenge.activation, "approved", "seen on site")
    assert (shown.state, shown.seat_reserved, shown.reason, shown.decided_by) == (
        "approved",
        True,
        "seen on site",
        ALICE.id,
    )
    assert await world.seats_taken(code) == 1
    assert (await machine.prove(challenge, body)).generation == 1
    assert isinstance(await machine.confirm(), Lease)
    assert await world.seats_taken(code) == 1
    assert await world.actions(challenge.activation) == [
        "activation.challenged",
        "activation.pending",
        "activation.approved",
    ]
    assert await machine.prove(challenge, body) == machine.activated


async def test_the_evidence_is_what_the_machine_proved(world: World) -> None:
    code = await world.code(approval=True)
    _, challenge, _ = await ask(world, code)
    shown = await world.parts.operators.activation_decisions.show(challenge.activation)
    assert (shown.tier, shown.components, shown.agent_version, shown.code, shown.matched, shown.node) == (
        "attested",
        ("board_serial",),
        "1.0",
        code.code.id,
        "",
        "",
    )
    assert shown.ek_name == challenge.ek_name.hex()
    assert "CN=" in shown.ek_issuer
    await decide(world, challenge.activation, "approved")
    page = await world.parts.operators.activation_decisions.page(world.tenant, code.code.id, "approved", "", 10)
    assert [item.id for item in page.items] == [challenge.activation]
    with pytest.raises(errors.Invalid):
        await world.parts.operators.activation_decisions.page("", "", "waiting", "", 10)


async def test_no_proof_no_wait(world: World) -> None:
    """A machine that has not answered the challenge does not wait yet, and cannot be approved."""
    code = await world.code(approval=True)
    challenge = await Machine(world).start(code.secret)
    with pytest.raises(errors.Conflict, match="is challenged; it does not wait"):
        await decide(world, challenge.activation, "approved")
    with pytest.raises(errors.NotFound):
        await decide(world, ActivationId(make_id("act", 1, bytes(10))), "approved")


async def test_another_proof_does_not_continue_a_waiting_activation(world: World) -> None:
    code = await world.code(approval=True)
    machine, challenge, body = await ask(world, code)
    other = machine.proof(challenge)
    with pytest.raises(errors.ActivationClosed):
        await machine.prove(challenge, other)
    await decide(world, challenge.activation, "approved")
    with pytest.raises(errors.ActivationClosed):
        await machine.prove(challenge, other)
    assert (await machine.prove(challenge, body)).generation == 1


async def test_a_denied_machine_gets_the_reason_and_stays_denied_with_this_code(world: World) -> None:
    code = await world.code(approval=True)
    machine, challenge, body = await ask(world, code)
    await decide(world, challenge.activation, "denied", "not one of ours")
    for _ in range(2):
        with pytest.raises(errors.ApprovalDenied, match="not one of ours"):
            await machine.prove(challenge, body)
    again = await machine.start(code.secret)
    with pytest.raises(errors.ApprovalDenied, match="not one of ours"):
        await machine.prove(again, machine.proof(again))
    other = await world.code(approval=True)
    await ask(world, other)
    assert await world.seats_taken(code) == 0
    await world.parts.operators.activation_decisions.lift(ALICE, challenge.activation, "")
    third = await machine.start(code.secret)
    await machine.waits(third, machine.proof(third))


async def test_the_first_of_two_operators_decides(world: World) -> None:
    code = await world.code(approval=True)
    _, challenge, _ = await ask(world, code)
    results = await asyncio.gather(
        *(decide(world, challenge.activation, "approved", f"by {number}") for number in range(3)),
        *(decide(world, challenge.activation, "denied", f"by {number}") for number in range(3)),
        return_exceptions=True,
    )
    refused = [each for each in results if isinstance(each, errors.Conflict)]
    done = [each for each in results if isinstance(each, schemas.Activation)]
    assert (len(refused), len(done)) == (5, 1), "also an approval for another reason is refused"
    assert f"by {ALICE.id}" in str(refused[0])
    decisions = [action for action in await world.actions(challenge.activation) if action.endswith("ed")][1:]
    assert len(decisions) == 1
    assert await world.seats_taken(code) == (1 if done[0].state == "approved" else 0)


async def test_a_repeated_approval_after_the_machine_continued_changes_nothing(world: World) -> None:
    code = await world.code(approval=True)
    machine, challenge, body = await ask(world, code)
    await decide(world, challenge.activation, "approved")
    await machine.prove(challenge, body)
    assert (await decide(world, challenge.activation, "approved")).state == "issued"
    with pytest.raises(errors.Conflict, match=r"approved already since .*; the first reason stays"):
        await decide(world, challenge.activation, "approved", "another reason")
    with pytest.raises(errors.Conflict):
        await decide(world, challenge.activation, "denied")


@pytest.mark.parametrize("approved", [False, True])
async def test_an_unanswered_or_unclaimed_activation_expires_and_frees_its_seat(world: World, approved: bool) -> None:
    code = await world.code(approval=True, life=timedelta(days=90))
    machine, challenge, body = await ask(world, code)
    if approved:
        world.clock.forward(timedelta(days=13))
        await decide(world, challenge.activation, "approved")
    world.clock.forward(APPROVE_WITHIN - timedelta(seconds=1))
    await run_once(world)
    assert await state_of(world, challenge.activation) == ("approved" if approved else "pending")
    world.clock.forward(timedelta(seconds=1))
    if not approved:
        with pytest.raises(errors.ApprovalExpired):
            await machine.prove(challenge, body)
        with pytest.raises(errors.Conflict, match="expired"):
            await decide(world, challenge.activation, "approved")
    await run_once(world)
    assert await state_of(world, challenge.activation) == "expired"
    assert await world.seats_taken(code) == 0
    with pytest.raises(errors.ApprovalExpired):
        await machine.prove(challenge, body)
    again = await machine.start(code.secret)
    await machine.waits(again, machine.proof(again))
    world.clock.forward(FORGET_DECIDED_AFTER + timedelta(seconds=1))
    await world.parts.nodes.activations.forget_old()
    with pytest.raises(errors.NotFound):
        await state_of(world, challenge.activation)


async def test_a_waiting_machine_takes_no_seat_from_others(world: World) -> None:
    """The seat goes to the machine that is approved first. Then there is none to approve for."""
    code = await world.code(approval=True, seats=1)
    first, second = await ask(world, code, "one"), await ask(world, code, "two")
    await decide(world, second[1].activation, "approved")
    with pytest.raises(errors.SeatsExhausted, match="no seat"):
        await decide(world, first[1].activation, "approved")
    assert await state_of(world, first[1].activation) == "pending"
    await second[0].prove(second[1], second[2])
    third = Machine(world, "three")
    challenge = await third.start(code.secret)
    with pytest.raises(errors.SeatsExhausted):
        await third.prove(challenge, third.proof(challenge))
    await second[0].confirm()
    await change(world, second[0], "release")
    await decide(world, first[1].activation, "approved")
    assert (await first[0].prove(first[1], first[2])).generation == 1
    assert await world.seats_taken(code) == 1


async def test_a_known_machine_keeps_its_seat_and_its_licence_while_it_waits(world: World) -> None:
    free = await world.code()
    machine = Machine(world)
    await machine.join(free.secret)
    code = await world.code(approval=True, profile="other")
    challenge = await machine.start(code.secret)
    body = msgspec.structs.replace(machine.proof(challenge))
    await machine.waits(challenge, body)
    row = await world.node(machine.node)
    assert (row.last_generation, row.profile, row.seat_held) == (1, "standard", True)
    shown = await decide(world, challenge.activation, "approved")
    assert (shown.node, shown.matched, shown.seat_reserved) == (machine.node, "chip", False)
    await machine.prove(challenge, body)
    await machine.confirm()
    row = await world.node(machine.node)
    assert (row.current_generation, row.profile, row.code) == (2, "other", free.code.id)
    assert (await world.seats_taken(free), await world.seats_taken(code)) == (1, 0)


async def test_a_seat_that_the_machine_took_otherwise_is_given_back(world: World) -> None:
    """The approval holds a seat of its code, and meanwhile the machine activates with another code."""
    code, other = await world.code(approval=True), await world.code()
    machine, challenge, body = await ask(world, code)
    await decide(world, challenge.activation, "approved")
    key = machine.node_key
    await machine.join(other.secret)
    assert (await world.seats_taken(code), await world.seats_taken(other)) == (1, 1)
    machine.node_key = key
    assert (await machine.prove(challenge, body)).generation == 2
    assert (await world.seats_taken(code), await world.seats_taken(other)) == (0, 1)


async def test_a_machine_that_lost_its_state_keeps_its_approval(world: World) -> None:
    code = await world.code(approval=True)
    machine, challenge, body = await ask(world, code)
    await decide(world, challenge.activation, "approved", "ours")
    assert (await machine.activate(code.secret)).generation == 1
    assert await state_of(world, challenge.activation) == "superseded"
    with pytest.raises(errors.ActivationClosed):
        await machine.prove(challenge, body)
    assert await world.seats_taken(code) == 1


async def test_an_approval_is_not_for_a_lower_tier_of_the_same_chip(world: World) -> None:
    tiers = schemas.SetTiers(("attested", "tpm"))
    await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, tiers)
    code = await world.code(approval=True, seats=1)
    machine, challenge, _ = await ask(world, code)
    await decide(world, challenge.activation, "approved")
    attested = machine.evidence()
    machine.evidence = lambda: msgspec.structs.replace(attested, ek_certificate=None)  # type: ignore[method-assign]
    lower = await machine.start(code.secret)
    await machine.waits(lower, machine.proof(lower))
    assert await state_of(world, challenge.activation) == "superseded"
    assert await world.seats_taken(code) == 0
    assert (await decide(world, lower.activation, "approved")).tier == "tpm"
    assert await world.seats_taken(code) == 1


async def test_one_chip_waits_once_with_a_code(world: World) -> None:
    code = await world.code(approval=True)
    for _ in range(3):
        await ask(world, code)
    decisions = world.parts.operators.activation_decisions
    assert len((await decisions.page("", code.code.id, "pending", "", 10)).items) == 1
    # The superseded ones are deleted as unproved challenges are, so repeats leave no rows behind.
    assert len((await decisions.page("", code.code.id, "superseded", "", 10)).items) == 2
    world.clock.forward(CHALLENGE_LIFE + FORGET_CHALLENGES_AFTER + timedelta(seconds=1))
    await world.parts.nodes.activations.forget_old()
    assert [item.state for item in (await decisions.page("", code.code.id, "", "", 10)).items] == ["pending"]


async def test_a_hostile_code_fills_its_own_places_alone(world: World) -> None:
    nodes = world.parts.nodes
    code, other = await world.code(approval=True, seats=9), await world.code(approval=True, seats=9)
    bounded = replace(nodes.approvals, per_code_max=2, per_tenant_max=3)
    admissions = nodes.activations.admissions
    admissions = replace(admissions, by_code=replace(admissions.by_code, approvals=bounded))
    activations = replace(nodes.activations, admissions=admissions)

    async def sent(code: schemas.CreatedCode, label: str) -> object:
        machine = Machine(world, label)
        challenge = await machine.start(code.secret)
        body = machine.proof(challenge)
        return await activations.prove(challenge.activation, body, sha256_hex(json_encode(body)))

    for number in range(2):
        assert isinstance(await sent(code, f"hostile {number}"), AwaitedApproval)
    with pytest.raises(errors.TooManyChallenges, match="with this code"):
        await sent(code, "hostile 3")
    assert isinstance(await sent(other, "honest"), AwaitedApproval)
    with pytest.raises(errors.TooManyChallenges, match="of this tenant"):
        await sent(other, "one more")
    assert errors.refusal(errors.TooManyChallenges()).headers == {"Retry-After": "30"}


@pytest.mark.parametrize("cause", ["revoked", "expired", "tier"])
async def test_code_and_tenant_are_asked_again(world: World, cause: str) -> None:
    code = await world.code(approval=True, life=timedelta(days=2))
    machine, challenge, body = await ask(world, code)
    refusal: type[errors.Refused]
    if cause == "revoked":
        await world.parts.operators.codes.revoke(ALICE, code.code.id)
        refusal = errors.CodeRevoked
    elif cause == "expired":
        world.clock.forward(timedelta(days=3))
        refusal = errors.CodeExpired
    else:
        await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("tpm",)))
        refusal = errors.TierNotAllowed
    with pytest.raises(refusal):
        await machine.prove(challenge, body)
    with pytest.raises(errors.Conflict, match="cannot approve"):
        await decide(world, challenge.activation, "approved")
    assert (await decide(world, challenge.activation, "denied")).state == "denied"
    assert await world.seats_taken(code) == 0


async def test_a_tenant_can_demand_approval_by_tier(world: World) -> None:
    tenants = world.parts.operators.tenants
    trust = await tenants.set_approval_tiers(ALICE, world.tenant, schemas.SetApprovalTiers(("software", "attested")))
    assert trust.approval_tiers == ("attested", "software")
    code = await world.code()
    await ask(world, code)
    await tenants.set_approval_tiers(ALICE, world.tenant, schemas.SetApprovalTiers(("software",)))
    await Machine(world, "another").activate(code.secret)


async def test_a_code_admits_no_tier_below_its_least_one(world: World) -> None:
    tenants = world.parts.operators.tenants
    await tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("attested", "tpm")))
    code = await world.code(tier_min="attested")
    machine = Machine(world)
    evidence = msgspec.structs.replace(machine.evidence(), ek_certificate=None)
    machine.evidence = lambda: evidence  # type: ignore[method-assign]  # a chip without a certificate
    with pytest.raises(errors.TierNotAllowed, match="reaches the tier tpm; this activation code admits attested"):
        await machine.start(code.secret)
    await machine.activate((await world.code(tier_min="tpm")).secret)


async def test_a_tenant_has_dates_of_its_own_for_a_tier(world: World) -> None:
    tenants = world.parts.operators.tenants
    terms = schemas.LeaseTerms(10, 20, 30, 40)
    with pytest.raises(errors.Invalid, match="order"):
        await tenants.set_lease_terms(
            ALICE, world.tenant, schemas.SetLeaseTerms("attested", schemas.LeaseTerms(4, 3, 2, 1))
        )
    await tenants.set_lease_terms(ALICE, world.tenant, schemas.SetLeaseTerms("tpm", schemas.LeaseTerms(1, 2, 3, 4)))
    await tenants.set_lease_terms(ALICE, world.tenant, schemas.SetLeaseTerms("attested", terms))
    lease = await Machine(world).join((await world.code()).secret)
    assert isinstance(lease, Lease)
    assert lease.terminate_at - lease.issued_at == timedelta(seconds=40)
    of_code = await Machine(world, "two").join((await world.code(lease=schemas.LeaseTerms(1, 2, 3, 50))).secret)
    assert isinstance(of_code, Lease)
    assert of_code.terminate_at - of_code.issued_at == timedelta(seconds=50)
    trust = await tenants.set_lease_terms(ALICE, world.tenant, schemas.SetLeaseTerms("attested", None))
    assert set(trust.lease_terms) == {"tpm"}


def test_the_wait_between_two_questions_grows_within_bounds() -> None:
    waits = [retry_seconds(timedelta(minutes=minutes)) for minutes in (0, 1, 5, 25, 60 * 24 * 14)]
    assert waits == [APPROVAL_RETRY_SECONDS_MIN, 12, 60, APPROVAL_RETRY_SECONDS_MAX, APPROVAL_RETRY_SECONDS_MAX]
