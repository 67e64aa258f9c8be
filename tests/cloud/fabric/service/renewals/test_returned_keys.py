"""`cloud.fabric.service.renewals.returned_keys`: a copy from before a rekey is caught at a renewal, a restored machine is not.

`tests/cloud/fabric/licensing/test_key_returns.py` has the sequences. Here the rows, statements, limits and the audit follow.
"""

from datetime import timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.fabric import errors, schemas
from cloud.fabric.bodies.clones import SetClonePolicy, SettleClone
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.service.nodes.clones import OLDER_REASON, RESTORED_REASON, SUSPENDED_BY_POLICY
from cloud.fabric.service.renewals.renewal import OPEN_PER_NODE_MAX, PROVED_PER_DAY_MAX, REFUSED_COUNTS_FOR
from cloud.fabric.store.keys import tenant_key
from protocol.encoding import json_encode, sha256_hex
from protocol.messages.renewal import ProveRenewal, StartRenewal
from protocol.messages.sessions import Ask
from protocol.signed.statements import Lease, Suspension
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.copies import Box
from tests.cloud.fabric.software_machine import SoftwareMachine, new_key, spki_of
from tests.cloud.fabric.support import ALICE, NONCE, Machine, World
from tests.simulators.forged_evidence import PaperChip

pytestmark = pytest.mark.slow


async def renew(box: Box, *, rekey: bool = False, presents: bool = True) -> None:
    """A renewal with fresh evidence. A refused machine takes its statement, as the agent does."""
    machine, renewals = box.machine, box.world.parts.nodes.renewals
    assert machine.activated is not None
    started = await renewals.start(StartRenewal(machine.activated.certificate_chain[0], machine.evidence(), "1.0"))
    secret = box.world.entropy.last[32]
    key = ec.generate_private_key(ec.SECP256R1()) if rekey else machine.node_key
    made = PaperChip(ak=machine.ak, node_key=key, nonce_secret=secret, nonce_activation=started.renewal).prove()
    presented = machine.held if presents else msgspec.UNSET
    body = ProveRenewal(secret, made.csr, made.key, NONCE, presented)
    try:
        answer = await renewals.prove(started.renewal, body, sha256_hex(json_encode(body)), "192.0.2.9")
    except errors.HolderRefused as refused:
        machine.held = refused.statement or machine.held
        raise
    machine.activated = msgspec.structs.replace(machine.activated, certificate_chain=answer.certificate_chain)
    machine.node_key = key


async def contact(box: Box) -> str:
    """As the agent does: a session, and after its refusal a renewal and another session."""
    try:
        await box.session()
    except errors.CertificateRefused:
        try:
            await renew(box)
        except errors.HolderRefused as refused:
            return refused.detail
        await box.session()
        return "renewed"
    except errors.HolderRefused as refused:
        return refused.detail
    return "session"


async def flag(box: Box) -> str:
    return (await box.world.node(box.machine.node)).clone_cause


async def set_policy(world: World, **changes: int) -> None:
    async with world.stores.transaction(tenant_key(world.tenant)):
        await world.stores.tenants.set_recovery(world.tenant, RecoveryPolicy(**changes))


@pytest.fixture
async def machine(world: World) -> Machine:
    """A machine that reads leases of version 2, which name the node key."""
    made = Machine(world, lease_version=2)
    await made.join((await world.code()).secret)
    return made


@pytest.fixture
async def pair(world: World, machine: Machine) -> tuple[Box, Box]:
    """A machine that has rekeyed, and a copy from before."""
    box = Box(world, machine)
    await box.session()
    twin = box.copy()
    await renew(box, rekey=True)
    await box.session()
    return box, twin


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_the_copy_is_refused_with_a_final_lease_for_its_key(world: World, pair: tuple[Box, Box]) -> None:
    box, twin = pair
    promised, former = twin.lease.expires_at, twin.lease.node_key
    assert await contact(twin) == "renewed"
    assert await flag(box) == ""
    assert await contact(box) == "renewed"
    assert await flag(box) == "former-key"
    held = twin.lease
    assert "another machine" in await contact(twin)
    final = twin.lease
    assert final.final is not None
    assert (final.final.reason, final.node_key, final.terminate_at) == (OLDER_REASON, former, held.expires_at)
    assert final.clone_suspected is not msgspec.UNSET
    assert promised <= held.expires_at
    # The original goes on, as often as it likes, and the copy gets the same statement each time.
    for _ in range(2):
        assert await contact(box) == "session"
        world.clock.forward(REFUSED_COUNTS_FOR)
        assert "another machine" in await contact(twin)
        assert twin.lease == final
    actions = await world.actions(box.machine.node)
    assert (actions.count("node.restored"), actions.count("node.clone_suspected")) == (1, 1)
    case = await world.parts.operators.clone_cases.show(box.machine.node)
    assert [each.state for each in case.evidence] == ["current", "older"]
    assert case.cause == "former-key"


async def test_a_copy_uses_up_no_renewal_of_the_original(world: World, pair: tuple[Box, Box]) -> None:
    box, twin = pair
    assert await contact(twin) == "renewed"
    for _ in range(PROVED_PER_DAY_MAX - 1):
        await renew(twin, rekey=True)
    with pytest.raises(errors.TooManyChallenges):
        await renew(twin, rekey=True)
    assert twin.machine.activated is not None
    start = StartRenewal(twin.machine.activated.certificate_chain[0], twin.machine.evidence(), "1.0")
    with pytest.raises(errors.TooManyChallenges, match="open"):
        for _ in range(OPEN_PER_NODE_MAX + 1):
            await world.parts.nodes.renewals.start(start)
    assert await contact(box) == "renewed"
    assert await contact(box) == "session"
    assert await flag(box) == "former-key"


async def test_a_machine_put_back_to_before_a_rekey_is_repaired_once(world: World, pair: tuple[Box, Box]) -> None:
    _, restored = pair
    assert [await contact(restored) for _ in range(3)] == ["renewed", "session", "session"]
    node = await world.node(restored.machine.node)
    assert (node.clone_cause, len(node.repairs)) == ("", 1)
    rows = await world.stores.audit.page("", node.id, "", "aud_8", 200)
    entries = [each for each in rows if each.action == "node.restored"]
    assert [each.detail["repairs"] for each in entries] == ["1 of 1"]
    assert isinstance(world.statement(restored.machine.held), Lease)


async def test_a_session_of_before_the_return_fetches_no_statement(world: World, pair: tuple[Box, Box]) -> None:
    box, twin = pair
    before = world.peer((await box.session()).certificate_chain[0])
    world.clock.forward(timedelta(minutes=10))
    await renew(twin)
    with pytest.raises(errors.SessionOutdated):
        await world.parts.nodes.statements.statement(before, Ask(NONCE))


async def test_an_operator_keeps_the_copy(world: World, pair: tuple[Box, Box]) -> None:
    box, twin = pair
    for each in (twin, box, twin):
        await contact(each)
    cases = world.parts.operators.clone_cases
    await cases.settle(ALICE, box.machine.node, SettleClone((await cases.show(box.machine.node)).evidence[1].id))
    assert [await contact(twin) for _ in range(2)] == ["renewed", "session"]
    assert twin.lease.clone_suspected is msgspec.UNSET
    assert "another machine" in await contact(box)
    assert isinstance(world.statement(box.machine.held), Suspension)
    assert await flag(box) == ""


async def test_a_policy_that_suspends_both(world: World, pair: tuple[Box, Box]) -> None:
    box, twin = pair
    await world.parts.operators.clone_cases.set_policy(ALICE, world.tenant, SetClonePolicy("suspend-both"))
    for each in (twin, box, twin):
        await contact(each)
    assert (await world.node(box.machine.node)).standing_reason == SUSPENDED_BY_POLICY
    for each in (box, twin):
        assert isinstance(world.statement(each.machine.held), Suspension)


async def test_a_restored_machine_without_a_repair_left_keeps_its_dates(world: World, pair: tuple[Box, Box]) -> None:
    """No policy suspends it. After the approval it goes on."""
    box, restored = pair
    await set_policy(world, repair_quota=0)
    await world.parts.operators.clone_cases.set_policy(ALICE, world.tenant, SetClonePolicy("suspend-both"))
    key = restored.lease.node_key
    assert await contact(restored) == RESTORED_REASON
    flagged = restored.lease
    dates = ("refresh_after", "expires_at", "grace_until", "terminate_at")
    assert [getattr(flagged, name) for name in dates] == [getattr(box.lease, name) for name in dates]
    assert flagged.node_key == key != box.lease.node_key
    assert flagged.clone_suspected is not msgspec.UNSET
    assert (await flag(box), (await world.node(box.machine.node)).standing) == ("restored", "active")
    assert (await world.actions(box.machine.node)).count("node.restore_unapproved") == 1
    cases = world.parts.operators.clone_cases
    await cases.settle(ALICE, box.machine.node, SettleClone((await cases.show(box.machine.node)).evidence[1].id))
    assert [await contact(restored) for _ in range(2)] == ["renewed", "session"]
    assert restored.lease.terminate_at > flagged.terminate_at


async def test_an_agent_that_presents_no_statement_gets_none(world: World, pair: tuple[Box, Box]) -> None:
    """The lease that it holds is not known, so no final lease can promise its dates."""
    box, twin = pair
    for each in (twin, box):
        await contact(each)
    held = twin.machine.held
    with pytest.raises(errors.HolderRefused) as refusal:
        await renew(twin, presents=False)
    assert (refusal.value.statement, refusal.value.freshness, twin.machine.held) == ("", "", held)


async def test_a_software_node_with_a_former_key_waits_for_an_operator(world: World) -> None:
    await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("attested", "software")))
    machine = SoftwareMachine(world)
    await machine.join((await world.code()).secret)
    await machine.session()
    chain, key = machine.chain, machine.key
    other = new_key()
    renewed = await machine.renew(machine.renewal(other))
    machine.chain, machine.key = renewed.certificate_chain, other
    await machine.session()
    machine.chain, machine.key = chain, key
    with pytest.raises(errors.CertificateRefused):
        await machine.session()
    with pytest.raises(errors.HolderRefused) as refusal:
        await machine.renew(msgspec.structs.replace(machine.renewal(key), presented=machine.statement))
    assert refusal.value.detail == RESTORED_REASON
    lease = world.statement(refusal.value.statement)
    assert isinstance(lease, Lease)
    node = await world.node(machine.node)
    assert (node.clone_cause, node.repairs) == ("restored", ())
    cases = world.parts.operators.clone_cases
    await cases.settle(ALICE, node.id, SettleClone((await cases.show(node.id)).evidence[1].id))
    again = await machine.renew(machine.renewal(key))
    machine.chain = again.certificate_chain
    await machine.session()
    assert (await world.generation(node.id, 1)).node_public_key == spki_of(key)
