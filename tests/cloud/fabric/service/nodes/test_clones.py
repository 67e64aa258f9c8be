"""`cloud.fabric.service.nodes.clones`: copies of a machine are caught, flagged by the policy, and one machine never is."""

from datetime import timedelta

import pytest

from cloud.fabric import errors
from cloud.fabric.bodies.clones import SettleClone
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.licensing.known_holders import Holders
from cloud.fabric.licensing.session_evidence import SessionEvidence
from cloud.fabric.service.nodes.clones import (
    RESTORED_REASON,
    SUSPENDED_BY_POLICY,
    Clones,
    Presented,
    Recorded,
    read_holders,
)
from cloud.fabric.store.keys import tenant_key
from cloud.storage.errors import DatabaseBusy
from protocol.evidence import ClockInfo
from protocol.messages.sessions import Ask
from protocol.signed.statements import Lease, Suspension
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.copies import Box
from tests.cloud.fabric.support import ALICE, NONCE, Machine, World

pytestmark = pytest.mark.slow


@pytest.fixture
async def box(world: World, machine: Machine) -> Box:
    """A machine that has opened two sessions with tokens."""
    made = Box(world, machine)
    await made.session()
    await made.session()
    return made


async def holders(world: World, box: Box) -> Holders:
    await world.parts.nodes.seen.store()
    known = read_holders((await world.generation(box.machine.node, 1)).holders)
    assert known is not None
    return known


async def flagged(world: World, box: Box) -> str:
    return (await world.node(box.machine.node)).clone_cause


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_the_second_refresh_of_a_copy_is_caught_and_the_newest_holder_goes_on(world: World, box: Box) -> None:
    await world.parts.nodes.seen.store()
    twin = box.copy()
    for each in (box, twin, box):
        await each.session()
        await world.parts.nodes.seen.store()
    assert await flagged(world, box) == ""
    promised = twin.lease.expires_at
    refused = await twin.refused()
    assert await flagged(world, box) == "renewal-token"
    older = world.statement(refused.statement)
    assert isinstance(older, Lease)
    assert older.expires_at == older.terminate_at == promised
    assert refused.freshness
    assert (await world.actions(box.machine.node)).count("node.clone_suspected") == 1
    known = await holders(world, box)
    assert [each.state for each in known.all] == ["current", "older"]
    assert {each.last.address for each in known.all} == {"192.0.2.7"}
    # The newest holder goes on. The older one gets the same final lease each time.
    again = await twin.refused()
    assert again.statement == refused.statement
    assert isinstance(box.world.statement((await box.session()).current.statement), Lease)
    assert box.lease.terminate_at > promised


async def test_a_session_from_before_the_suspicion_fetches_no_statement(world: World, box: Box) -> None:
    twin = box.copy()
    await box.session()
    before = world.peer((await twin.session()).certificate_chain[0])
    await box.session()
    await world.parts.nodes.statements.statement(before, Ask(NONCE))
    await twin.refused()
    with pytest.raises(errors.SessionOutdated):
        await world.parts.nodes.statements.statement(before, Ask(NONCE))
    after = world.peer((await box.session()).certificate_chain[0])
    await world.parts.nodes.statements.statement(after, Ask(NONCE))


async def test_a_policy_that_suspends_both(world: World, box: Box) -> None:
    async with world.stores.transaction(tenant_key(world.tenant)):
        await world.stores.tenants.set_clone_policy(world.tenant, "suspend-both")
    twin = box.copy()
    for each in (box, twin, box):
        await each.session()
    refused = await twin.refused()
    node = await world.node(box.machine.node)
    assert (node.standing, node.standing_reason) == ("suspended", SUSPENDED_BY_POLICY)
    assert isinstance(world.statement(refused.statement), Suspension)
    assert isinstance(world.statement((await box.session()).current.statement), Suspension)


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_lost_answers_and_a_repeated_proof_are_no_clone(world: World, box: Box) -> None:
    for _ in range(4):
        await box.session(lost=True)
        await world.parts.nodes.seen.store()
    await box.session()
    request = box.request()
    sessions = world.parts.nodes.sessions
    first, second = await sessions.open_session(request), await sessions.open_session(request)
    await world.parts.nodes.seen.store()
    third = await sessions.open_session(request)
    assert first.renewal == second.renewal == third.renewal != ""
    box.token = first.renewal
    await box.session()
    assert await flagged(world, box) == ""
    assert len((await holders(world, box)).all) == 1


async def test_a_restored_machine_alone_is_audited_and_goes_on(world: World, box: Box) -> None:
    snapshot = box.copy()
    await box.session()
    await box.session()
    for _ in range(3):
        assert isinstance(world.statement((await snapshot.session()).current.statement), Lease)
    assert await flagged(world, box) == ""
    assert (await world.actions(box.machine.node)).count("node.restored") == 1
    # The machine that was restored runs elsewhere too: now there are two.
    await box.session()
    assert await flagged(world, box) == "renewal-token"
    await snapshot.refused()


async def test_an_agent_without_tokens_is_never_suspected(world: World, machine: Machine) -> None:
    for _ in range(3):
        assert (await machine.session()).renewal
        world.clock.forward(timedelta(hours=1))
        await world.parts.nodes.seen.store()
    assert (await world.node(machine.node)).clone_cause == ""


async def test_a_crash_forgets_the_tokens_of_the_last_seconds(world: World, box: Box) -> None:
    before = await world.generation(box.machine.node, 1)
    await world.parts.nodes.seen.store()
    for _ in range(3):
        await box.session()
    seen = world.parts.nodes.seen
    assert seen.kept(before.id) is not None
    seen.take_holders(before.id)
    await box.session()
    await box.session()
    assert await flagged(world, box) == ""


async def test_a_suspicion_from_other_evidence(world: World, box: Box) -> None:
    await world.parts.nodes.seen.store()
    node = await world.node(box.machine.node)
    other = SessionEvidence(world.clock(), world.clock(), None, "k", "another", "192.0.2.8", "1")
    for _ in range(2):
        await world.parts.nodes.clones.suspect(node, 1, "fingerprint", other)
    assert await flagged(world, box) == "fingerprint"
    assert (await world.actions(box.machine.node)).count("node.clone_suspected") == 1
    assert isinstance(world.statement((await box.session()).current.statement), Lease)


@pytest.mark.parametrize(
    "clock", [ClockInfo(-1, 0, 0, True), ClockInfo(2**64, 0, 0, True), ClockInfo(0, 2**32, 0, True)]
)
async def test_a_clock_out_of_bounds(world: World, box: Box, clock: ClockInfo) -> None:
    with pytest.raises(errors.ProofRefused, match="clock"):
        await box.world.parts.nodes.sessions.open_session(box.request(clock=clock))
    with pytest.raises(errors.ProofRefused, match="too long"):
        await box.world.parts.nodes.sessions.open_session(box.request(renewal="A" * 129))


async def test_a_token_of_another_node_counts_as_none(world: World, box: Box) -> None:
    await box.session(renewal="A" * 58)
    await box.session(renewal="!")
    assert await flagged(world, box) == ""


@pytest.mark.parametrize(
    ("resets", "then", "cause"),
    [(3, 4, "chip"), (4, 4, ""), (5, 4, ""), (0, 1, "")],
    ids=["another TPM", "the same TPM", "the same TPM, booted", "the same TPM with other firmware"],
)
async def test_a_superseded_generation_that_asks_from_another_tpm(
    world: World, box: Box, resets: int, then: int, cause: str
) -> None:
    """The copy activates again, and supersedes the original. Counts that fell are no evidence of two TPMs.

    The evidence is that the present generation goes on from its own counts after that.
    """
    again = Machine(world, box.machine.label)
    await again.join((await world.code()).secret)
    twin = Box(world, again)
    assert twin.machine.node == box.machine.node
    twin.clock = ClockInfo(box.clock.clock, 4, 0, True)
    await twin.session()
    await world.parts.nodes.seen.store()
    box.clock = ClockInfo(twin.clock.clock, resets, 0, True)
    with pytest.raises(errors.GenerationClosed):
        await box.session()
    assert await flagged(world, box) == ""
    twin.clock = ClockInfo(twin.clock.clock if then == 4 else 1_000, then, 0, True)
    await twin.session()
    assert await flagged(world, box) == cause
    assert twin.lease.generation == 2
    # Once an operator has settled, the superseded copy raises no flag again.
    cases = world.parts.operators.clone_cases
    await cases.settle(ALICE, twin.machine.node, SettleClone((await cases.show(twin.machine.node)).evidence[0].id))
    with pytest.raises(errors.GenerationClosed):
        await box.session()
    assert await flagged(world, box) == ""


async def test_an_overtaken_session_is_judged_also_after_a_busy_database(
    world: World, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica stored first, and the database is busy when the session is judged again."""
    seen, nodes = world.parts.nodes.seen, world.stores.nodes
    await seen.store()
    await box.session()
    row = await world.generation(box.machine.node, 1)
    assert await nodes.set_holders(row, row.holders, None)
    recorded, busy = Clones.record, [True]

    async def record(clones: Clones, presented: Presented) -> Recorded:
        if busy.pop():
            raise DatabaseBusy("busy")
        return await recorded(clones, presented)

    monkeypatch.setattr(Clones, "record", record)
    with pytest.raises(DatabaseBusy):
        await seen.store()
    busy.append(False)
    await seen.store()
    after = read_holders((await world.generation(box.machine.node, 1)).holders)
    before = read_holders(row.holders)
    assert after is not None
    assert before is not None
    assert after.current.number == before.current.number + 1


async def test_the_second_restore_of_a_period_waits_for_an_operator(world: World, box: Box) -> None:
    """The machine runs to the dates of the node's last lease. Each step has one audit entry."""
    snapshot = box.copy()
    for _ in range(2):
        await box.session()
    first, second = snapshot.copy(), snapshot.copy()
    await first.session()
    await first.session()
    ends = first.lease.terminate_at
    refused = await second.refused()
    assert refused.detail == RESTORED_REASON
    assert await flagged(world, box) == "restored"
    assert second.lease.terminate_at == ends
    again = await second.refused()
    assert again.statement == refused.statement
    cases = world.parts.operators.clone_cases
    case = await cases.show(box.machine.node)
    await cases.settle(ALICE, case.node, SettleClone(case.evidence[1].id))
    await second.session()
    assert second.lease.terminate_at > ends
    actions = await world.actions(case.node)
    names = ("node.restored", "node.restore_unapproved", "node.clone_settled", "node.clone_suspected")
    assert [actions.count(name) for name in names] == [1, 1, 1, 0]
    # The machine that was thought to be gone goes on.
    await first.session()
    assert await flagged(world, box) == "renewal-token"
    assert (await second.refused()).detail != RESTORED_REASON


QUOTAS: dict[str, tuple[dict[str, int], float, list[str]]] = {
    "quota used up": ({}, 1, ["repaired", "waits", "waits"]),
    "quota 0": ({"repair_quota": 0}, 1, ["waits", "waits"]),
    "quota 2": ({"repair_quota": 2}, 1, ["repaired", "repaired", "waits"]),
    "period over": ({"period_days": 10}, 11, ["repaired", "repaired", "repaired"]),
    "period over for the first": ({"period_days": 10, "repair_quota": 2}, 4, ["repaired", "repaired", "waits"]),
}


@pytest.mark.parametrize(("policy", "days", "outcomes"), QUOTAS.values(), ids=QUOTAS)
async def test_the_quota_of_automatic_repairs(
    world: World, box: Box, policy: dict[str, int], days: float, outcomes: list[str]
) -> None:
    async with world.stores.transaction(tenant_key(world.tenant)):
        await world.stores.tenants.set_recovery(world.tenant, RecoveryPolicy(**policy))
    snapshot = box.copy()
    for _ in range(2):
        await box.session()
    found = []
    for _ in outcomes:
        world.clock.forward(timedelta(days=days))
        restored = snapshot.copy()
        try:
            for _ in range(2):
                await restored.session()
            found.append("repaired")
        except errors.HolderRefused:
            found.append("waits")
    assert found == outcomes
    detail = await world.parts.operators.node_lists.detail(box.machine.node)
    assert detail.repairs is not None
    waits = outcomes[-1] == "waits"
    assert (detail.node.clone_cause, "settle" in detail.node.notice) == ("restored" if waits else "", waits)
    assert detail.repairs.allowed == policy.get("repair_quota", 1)
    assert detail.repairs.used == min(outcomes.count("repaired"), detail.repairs.allowed)
    next_at = detail.repairs.next_at
    assert (next_at is None) == (detail.repairs.allowed == 0)
    assert next_at is None or next_at > world.clock()


async def test_a_restore_that_waits_may_be_refused_and_both_that_go_on_are_a_clone(world: World, box: Box) -> None:
    async with world.stores.transaction(tenant_key(world.tenant)):
        await world.stores.tenants.set_recovery(world.tenant, RecoveryPolicy(repair_quota=0))
        await world.stores.tenants.set_clone_policy(world.tenant, "suspend-both")
    snapshot = box.copy()
    for _ in range(2):
        await box.session()
    await snapshot.refused()
    # No policy suspends a restored machine. It applies once the current machine goes on: there are two.
    assert ((await world.node(box.machine.node)).standing, await flagged(world, box)) == ("active", "restored")
    await box.session()
    assert ((await world.node(box.machine.node)).standing, await flagged(world, box)) == ("suspended", "renewal-token")
    cases = world.parts.operators.clone_cases
    await cases.settle(ALICE, box.machine.node, SettleClone((await cases.show(box.machine.node)).evidence[0].id))
    assert isinstance(world.statement((await snapshot.refused()).statement), Suspension)
    assert isinstance(world.statement((await box.session()).current.statement), Lease)
