"""`cloud.fabric.service.operators.recovery_codes`: who gets a code, from when on it is accepted, and every bound."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud.fabric import schemas
from cloud.fabric.bodies.recovery_codes import CODES_AT_ONCE_MAX, IssueRecoveryCodes, SetRecoveryPolicy
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.service.recovery.codes import recovery_code_hash
from protocol.codes import parse_recovery_code
from protocol.ids import NodeId, RecoveryCodeId, RecoveryId, TenantId, make_id
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.service.recovery.support import CASES, all_codes, issue, new_case, new_node, one_code, use
from tests.cloud.fabric.support import ALICE, World

DAY = timedelta(days=1)


@pytest.mark.slow
@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_the_text_is_answered_once_and_kept_as_a_keyed_hash(world: World) -> None:
    node = await new_node(world)
    issued = await issue(world, node=node.id, count=3)
    assert len({each.secret for each in issued.codes}) == 3
    for each in issued.codes:
        row = await world.stores.recovery_codes.find(each.code.id)
        assert row is not None
        assert row.secret_hash == recovery_code_hash(world.parts.shared.recovery_codes.key, each.secret)
        assert parse_recovery_code(each.secret) == each.secret
        assert each.secret not in str(row)
        assert (each.code.state, each.code.node, each.code.tenant) == ("open", node.id, world.tenant)
        assert await world.actions(each.code.id) == ["recovery.code_issued"]
    page = await world.parts.operators.recovery_code_issues.page(world.tenant, node.id, "", "", 10)
    assert page.items == tuple(each.code for each in issued.codes)


async def test_codes_of_one_issue_are_open_and_those_of_the_next_are_delayed(world: World) -> None:
    node, other = await new_node(world, 1), await new_node(world, 2)
    first = await issue(world, node=node.id, count=2)
    assert (first.reissued, [each.code.state for each in first.codes]) == (False, ["open", "open"])
    again = await issue(world, node=node.id)
    assert (again.reissued, again.codes[0].code.state) == (True, "delayed")
    assert again.codes[0].code.usable_from == world.clock() + DAY
    assert not (await issue(world, node=other.id)).reissued
    assert not (await issue(world, tenant=world.tenant)).reissued
    assert (await issue(world, tenant=world.tenant)).reissued
    entry = (await world.stores.audit.page(world.tenant, again.codes[0].code.id, "", "aud_8", 1))[0]
    assert entry.detail["reissued_after"] in {each.code.id for each in first.codes}
    assert entry.detail["usable_from"] == "2026-11-23T12:00:00Z"
    lists = world.parts.operators.recovery_code_issues
    delayed = await lists.page("", "", "delayed", "", 10)
    assert [code.id for code in delayed.items if code.node] == [again.codes[0].code.id]
    world.clock.forward(DAY)
    assert (await lists.page("", "", "delayed", "", 10)).items == ()


async def test_the_delay_is_that_of_the_policy_and_ends_with_the_period(world: World) -> None:
    node = await new_node(world)
    await issue(world, node=node.id)
    policies = world.parts.operators.recovery_policies
    await policies.set(ALICE, world.tenant, SetRecoveryPolicy(code_delay_hours=2, period_days=7))
    assert (await issue(world, node=node.id)).codes[0].code.usable_from == world.clock() + timedelta(hours=2)
    world.clock.forward(7 * DAY)
    assert not (await issue(world, node=node.id)).reissued


async def test_codes_that_expire_before_they_are_accepted_are_not_issued(world: World) -> None:
    node = await new_node(world)
    await issue(world, node=node.id)
    before = await all_codes(world)
    with pytest.raises(Invalid, match="accepted from"):
        await issue(world, days=1, node=node.id)
    assert await all_codes(world) == before


@pytest.mark.parametrize("state", ["eligible", "needs_operator", "refused", "code_issued"])
async def test_a_code_for_a_case_moves_the_case(world: World, state: Any) -> None:
    case = await new_case(world, await new_node(world), state=state)
    issued = await one_code(world, case=case.id)
    assert (issued.code.node, issued.code.case) == (case.node, case.id)
    row = await world.stores.recovery_cases.find(case.id)
    assert row is not None
    assert (row.state, row.reason) == ("code_issued", f"the recovery code {issued.code.id} was issued")


@pytest.mark.parametrize("state", ["open", "approved", "consumed", "lapsed"])
async def test_a_case_that_waits_for_nothing_gets_no_code(world: World, state: Any) -> None:
    case = await new_case(world, await new_node(world), state=state)
    with pytest.raises(Conflict, match=f"the case is {state}"):
        await one_code(world, case=case.id)
    assert await all_codes(world) == []
    assert await world.stores.recovery_cases.find(case.id) == case


@pytest.mark.parametrize("standing", ["revoked", "released"])
async def test_a_revoked_node_gets_no_code(world: World, standing: Any) -> None:
    node = await new_node(world, standing=standing)
    with pytest.raises(Conflict, match="readmit"):
        await one_code(world, node=node.id)


BAD: list[dict[str, Any]] = [
    {},
    {"node": NodeId(make_id("node", 1, bytes(10))), "tenant": TenantId(make_id("ten", 1, bytes(10)))},
    {"tenant": TenantId(make_id("ten", 1, bytes(10))), "count": 0},
    {"tenant": TenantId(make_id("ten", 1, bytes(10))), "count": CODES_AT_ONCE_MAX + 1},
    {"case": CASES[0], "count": 2},
    {"tenant": TenantId(make_id("ten", 1, bytes(10))), "expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
    {"tenant": TenantId(make_id("ten", 1, bytes(10))), "expires_at": datetime(2029, 1, 1, tzinfo=UTC)},
]
UNKNOWN: list[dict[str, Any]] = [
    {"node": NodeId(make_id("node", 99, bytes(10)))},
    {"case": RecoveryId(make_id("rcv", 99, bytes(10)))},
    {"tenant": TenantId(make_id("ten", 99, bytes(10)))},
]


async def test_each_bound_of_an_issue(world: World) -> None:
    for changes in BAD:
        with pytest.raises(Invalid):
            await world.parts.operators.recovery_code_issues.issue(
                ALICE, IssueRecoveryCodes(**{"expires_at": world.clock() + DAY, **changes})
            )
        assert await all_codes(world) == [], changes


async def test_unknown_objects_get_no_code(world: World) -> None:
    for scope in UNKNOWN:
        with pytest.raises(NotFound):
            await one_code(world, **scope)


async def test_a_code_is_revoked_once_and_not_after_its_use(world: World) -> None:
    node, issues = await new_node(world), world.parts.operators.recovery_code_issues
    one, other = (each for each in (await issue(world, node=node.id, count=2)).codes)
    for _ in range(2):
        assert (await issues.revoke(ALICE, one.code.id)).state == "revoked"
    assert await world.actions(one.code.id) == ["recovery.code_issued", "recovery.code_revoked"]
    await use(world, other.secret, node)
    with pytest.raises(Conflict, match="was used"):
        await issues.revoke(ALICE, other.code.id)
    with pytest.raises(NotFound):
        await issues.revoke(ALICE, RecoveryCodeId(make_id("rcc", 99, bytes(10))))
    states = [code.state for code in (await issues.page("", "", "", "", 10)).items]
    assert states == ["revoked", "used"]


async def test_lists_are_paged_and_name_an_unknown_tenant(world: World) -> None:
    node, issues = await new_node(world), world.parts.operators.recovery_code_issues
    await issue(world, node=node.id, count=3)
    first = await issues.page(world.tenant, "", "", "", 2)
    second = await issues.page(world.tenant, "", "", first.next_cursor, 2)
    assert (len(first.items), len(second.items), second.next_cursor) == (2, 1, "")
    with pytest.raises(NotFound):
        await issues.page(TenantId(make_id("ten", 99, bytes(10))), "", "", "", 10)
    with pytest.raises(Invalid, match="state"):
        await issues.page("", "", "used", "", 10)
    world.clock.forward(365 * DAY)
    page: schemas.Page[Any] = await issues.page(world.tenant, "", "", "", 10)
    assert {code.state for code in page.items} == {"expired"}
