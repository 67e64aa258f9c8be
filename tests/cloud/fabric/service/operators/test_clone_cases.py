"""`cloud.fabric.service.operators.clone_cases`: an operator sees the holders, keeps one, and the others are shut out."""

import pytest

from cloud.fabric import errors
from cloud.fabric.bodies.clones import SetClonePolicy, SettleClone
from cloud.fabric.service.nodes.clones import SHUT_REASON
from protocol.ids import NodeId, TenantId, make_id
from protocol.signed.statements import Lease, Suspension
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.copies import Box
from tests.cloud.fabric.support import ALICE, Machine, World

pytestmark = pytest.mark.slow


@pytest.fixture
async def pair(world: World, machine: Machine) -> tuple[Box, Box]:
    """Two machines of one TPM state. The second one is the suspected older copy."""
    box = Box(world, machine)
    await box.session()
    twin = box.copy()
    for each in (box, twin, box):
        await each.session()
    await twin.refused()
    return box, twin


async def test_a_case_shows_the_evidence_of_both_holders(world: World, pair: tuple[Box, Box]) -> None:
    cases = world.parts.operators.clone_cases
    page = await cases.page("", "", 50)
    (case,) = page.items
    assert (case.node, case.tenant, case.cause, page.next_cursor) == (
        pair[0].machine.node,
        world.tenant,
        "renewal-token",
        "",
    )
    assert case == await cases.show(case.node)
    assert [each.state for each in case.evidence] == ["current", "older"]
    assert {each.address for each in case.evidence} == {"192.0.2.7"}
    assert case.evidence[0].seen_at < case.evidence[1].seen_at
    with pytest.raises(errors.NotFound):
        await cases.page(make_id("ten", 1, bytes(10)), "", 50)
    shown = (await world.parts.operators.node_lists.detail(case.node)).node
    assert shown.clone_cause == "renewal-token"
    assert "clone" in shown.notice


async def test_settling_ends_no_suspension_by_a_person(world: World, machine: Machine) -> None:
    """The policy suspends the node first. Then a person suspends it, and another one settles."""
    cases = world.parts.operators.clone_cases
    await cases.set_policy(ALICE, world.tenant, SetClonePolicy("suspend-both"))
    box = Box(world, machine)
    await box.session()
    twin = box.copy()
    for each in (box, twin, box):
        await each.session()
    await twin.refused()
    for _ in range(2):
        await world.parts.operators.standings.change(ALICE, machine.node, "suspend", "not paid")
    assert (await world.actions(machine.node)).count("node.suspend") == 1
    settled = await cases.settle(ALICE, machine.node, SettleClone((await cases.show(machine.node)).evidence[0].id))
    assert (settled.cause, settled.standing) == ("", "suspended")
    assert (await world.node(machine.node)).standing_reason == "not paid"


@pytest.mark.parametrize(("keep", "policy"), [(0, "newest-in-grace"), (1, "suspend-both")])
async def test_settling_keeps_one_holder_and_shuts_the_other_out(
    world: World, machine: Machine, keep: int, policy: str
) -> None:
    cases = world.parts.operators.clone_cases
    body = SetClonePolicy("suspend-both" if policy == "suspend-both" else "newest-in-grace")
    assert (await cases.set_policy(ALICE, world.tenant, body)).clone_policy == policy
    box = Box(world, machine)
    await box.session()
    twin = box.copy()
    for each in (box, twin, box):
        await each.session()
    await twin.refused()
    kept, other = (box, twin) if keep == 0 else (twin, box)
    chosen = SettleClone((await cases.show(machine.node)).evidence[keep].id)
    settled = await cases.settle(ALICE, machine.node, chosen)
    assert (settled.cause, settled.suspected_at, settled.standing) == ("", None, "active")
    assert [each.state for each in settled.evidence] == ["current", "shut"]
    assert await cases.settle(ALICE, machine.node, chosen) == settled
    assert (await world.actions(machine.node)).count("node.clone_settled") == 1
    assert isinstance(world.statement((await kept.session()).current.statement), Lease)
    shut = world.statement((await other.refused()).statement)
    assert isinstance(shut, Suspension)
    assert shut.reason == SHUT_REASON
    await kept.session()
    await other.refused()
    assert (await cases.page("", "", 50)).items == ()


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_another_holder_can_be_kept_later(world: World, pair: tuple[Box, Box]) -> None:
    cases, node = world.parts.operators.clone_cases, pair[0].machine.node
    first, second = (await cases.show(node)).evidence
    await cases.settle(ALICE, node, SettleClone(first.id))
    await pair[1].refused()
    await cases.settle(ALICE, node, SettleClone(second.id))
    lease = world.statement((await pair[1].session()).current.statement)
    assert isinstance(lease, Lease)
    await pair[0].refused()


async def test_a_suspension_by_a_person_stays(world: World, pair: tuple[Box, Box]) -> None:
    node = pair[0].machine.node
    await world.parts.operators.standings.change(ALICE, node, "suspend", "unpaid")
    cases = world.parts.operators.clone_cases
    settled = await cases.settle(ALICE, node, SettleClone((await cases.show(node)).evidence[0].id))
    assert (settled.cause, settled.standing) == ("", "suspended")


async def test_what_is_not_there_cannot_be_settled(world: World, machine: Machine) -> None:
    cases = world.parts.operators.clone_cases
    nobody = NodeId(make_id("node", 1, bytes(10)))
    with pytest.raises(errors.NotFound):
        await cases.show(nobody)
    with pytest.raises(errors.Conflict, match="no such evidence"):
        await cases.settle(ALICE, machine.node, SettleClone("0badcafe"))
    with pytest.raises(errors.NotFound):
        await cases.set_policy(ALICE, TenantId(make_id("ten", 1, bytes(10))), SetClonePolicy("suspend-both"))
    assert (await cases.show(machine.node)).evidence == ()


async def test_a_closed_generation_is_not_settled(world: World, pair: tuple[Box, Box]) -> None:
    cases, node = world.parts.operators.clone_cases, pair[0].machine.node
    keep = SettleClone((await cases.show(node)).evidence[1].id)
    await world.parts.operators.standings.change(ALICE, node, "revoke", "stolen")
    with pytest.raises(errors.Conflict, match="closed"):
        await cases.settle(ALICE, node, keep)
