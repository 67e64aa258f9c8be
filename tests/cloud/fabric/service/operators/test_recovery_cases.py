"""`cloud.fabric.service.operators.recovery_cases`: lists of cases, and decisions that count once."""

from datetime import timedelta
from typing import Any

import pytest

from cloud.fabric.errors import Conflict, Invalid, NotFound, TokenRefused
from cloud.fabric.store.rows import RecoveryCaseRow
from cloud.http.guard import Operator
from protocol.ids import RecoveryId, TenantId, make_id
from tests.cloud.fabric.recovering import case_of, claim, replacement, waits
from tests.cloud.fabric.service.recovery.support import CASES, all_codes, new_case, new_node, one_code
from tests.cloud.fabric.support import ALICE, Machine, World

NOBODYS = RecoveryId(make_id("rcv", 99, bytes(10)))


async def waiting_case(world: World) -> RecoveryCaseRow:
    """The case of a machine with another board, which waits."""
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    await waits(replacement(machine), claim(machine.node))
    return await case_of(world, machine.node)


async def test_cases_are_listed_by_tenant_node_and_state(world: World) -> None:
    one, other = await new_node(world, 1), await new_node(world, 2)
    first = await new_case(world, one)
    second = await new_case(world, other, id=CASES[1], state="consumed")
    page = world.parts.operators.recovery_decisions.page
    for tenant, node, state, found in (
        ("", "", "", [first.id, second.id]),
        (world.tenant, "", "undecided", [first.id]),
        ("", other.id, "", [second.id]),
        ("", "", "consumed", [second.id]),
        ("", other.id, "undecided", []),
    ):
        assert [case.id for case in (await page(tenant, node, state, "", 10)).items] == found
    begun = await page("", "", "", "", 1)
    assert [case.id for case in (await page("", "", "", begun.next_cursor, 1)).items] == [second.id]
    with pytest.raises(Invalid, match="state"):
        await page("", "", "closed", "", 10)
    with pytest.raises(NotFound):
        await page(TenantId(make_id("ten", 99, bytes(10))), "", "", "", 10)


async def test_a_case_is_shown_with_its_evidence(world: World) -> None:
    case = await new_case(world, await new_node(world))
    shown = await world.parts.operators.recovery_decisions.show(case.id)
    assert (shown.id, shown.evidence, shown.overlap_until) == (case.id, case.evidence, case.overlap_until)
    with pytest.raises(NotFound):
        await world.parts.operators.recovery_decisions.show(NOBODYS)


@pytest.mark.parametrize(
    ("decision", "state", "action"),
    [("approve", "approved", "recovery.approved"), ("deny", "refused", "recovery.denied")],
)
async def test_a_repeated_decision_changes_nothing(world: World, decision: Any, state: str, action: str) -> None:
    case = await waiting_case(world)
    decide = world.parts.operators.recovery_decisions.decide
    decided = await decide(ALICE, case.id, decision, "called back")
    assert (decided.state, decided.decided_by, decided.reason) == (state, ALICE.id, "called back")
    world.clock.forward(timedelta(hours=1))
    assert await decide(ALICE, case.id, decision, "called back") == decided
    with pytest.raises(Conflict, match="first reason stays"):
        await decide(ALICE, case.id, decision, "for another reason")
    assert await world.actions(case.id) == ["recovery.opened", action]


async def test_a_denial_needs_a_reason_and_an_approval_corrects_it(world: World) -> None:
    case = await waiting_case(world)
    decide = world.parts.operators.recovery_decisions.decide
    with pytest.raises(Invalid, match="reason"):
        await decide(ALICE, case.id, "deny", "")
    await decide(ALICE, case.id, "deny", "unknown caller")
    assert (await decide(ALICE, case.id, "approve", "")).state == "approved"
    assert await world.actions(case.id) == ["recovery.opened", "recovery.denied", "recovery.approved"]


@pytest.mark.parametrize("state", ["consumed", "lapsed"])
@pytest.mark.parametrize("decision", ["approve", "deny"])
async def test_a_finished_case_is_not_decided(world: World, decision: Any, state: Any) -> None:
    case = await new_case(world, await new_node(world), state=state)
    with pytest.raises(Conflict, match=f"the case is {state}"):
        await world.parts.operators.recovery_decisions.decide(ALICE, case.id, decision, "late")
    assert await world.stores.recovery_cases.find(case.id) == case
    assert await world.actions(case.id) == []


async def test_a_revoked_token_decides_nothing(world: World) -> None:
    case = await new_case(world, await new_node(world))
    with pytest.raises(TokenRefused):
        await world.parts.operators.recovery_decisions.decide(Operator("tok_gone", "gone"), case.id, "approve", "")
    assert await world.stores.recovery_cases.find(case.id) == case


async def test_an_unknown_case_is_not_decided(world: World) -> None:
    with pytest.raises(NotFound):
        await world.parts.operators.recovery_decisions.decide(ALICE, NOBODYS, "approve", "")


async def test_a_case_that_a_later_one_replaced_gets_neither_an_approval_nor_a_code(world: World) -> None:
    node = await new_node(world)
    refused = await new_case(world, node, state="refused")
    later = await new_case(world, node, id=CASES[1])
    with pytest.raises(Conflict, match=f"the case {later.id} of the same node was opened later"):
        await world.parts.operators.recovery_decisions.decide(ALICE, refused.id, "approve", "")
    with pytest.raises(Conflict, match=f"the case {later.id} of the same node was opened later"):
        await one_code(world, case=refused.id)
    assert await world.stores.recovery_cases.find(refused.id) == refused
    assert await all_codes(world) == []
