"""`cloud.fabric.service.activations.entrances`: a recovery between machines with a TPM and machines without one."""

import pytest

from cloud.fabric import errors
from cloud.fabric.bodies.hardware import SetPcrPolicy, SetTiers
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.software import SoftwareChallenge, StartSoftwareActivation
from protocol.signed.statements import Lease
from tests.cloud.fabric.recovering import allow_grace, case_of, claim, decide, recovered, seats, waits
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.software_machine import SERIALS, SoftwareMachine, new_key, spki_of
from tests.cloud.fabric.support import ALICE, Machine, World

pytestmark = pytest.mark.slow


async def admit_software(world: World) -> None:
    await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, SetTiers(("attested", "software")))


async def start(machine: SoftwareMachine, node: str, code: str = "") -> SoftwareChallenge:
    machine.key = new_key()
    body = StartSoftwareActivation(code, spki_of(machine.key), "1.0", claim(node))
    challenge = await machine.world.parts.nodes.software_activations.start(body, "192.0.2.9")
    machine.salt = challenge.fingerprint_salt
    return challenge


async def test_a_machine_without_a_tpm_that_lost_its_disk_waits_whatever_the_quota(world: World) -> None:
    await admit_software(world)
    await allow_grace(world)
    machine = SoftwareMachine(world)
    code = await world.code()
    challenge = await machine.start(code.secret)
    assert isinstance(await machine.send(challenge, machine.proof(challenge)), Activated)
    await machine.confirm()
    node = machine.node
    reinstalled = SoftwareMachine(world)
    challenge = await start(reinstalled, node)
    body = reinstalled.proof(challenge)
    answer = await reinstalled.send(challenge, body)
    assert isinstance(answer, AwaitedApproval)
    case = await case_of(world, node)
    assert (case.situation, case.evidence.fingerprint, case.evidence.same_chip) == ("reinstalled", "match", False)
    assert "without a TPM gets no grace lease" in case.reason
    await decide(world, case.id, "approved")
    assert isinstance(await reinstalled.send(challenge, body), Activated)
    assert isinstance(await reinstalled.confirm(), Lease)
    assert (reinstalled.node, await seats(world, node)) == (node, 1)
    other = SoftwareMachine(world, serials={name: f"{value}9" for name, value in SERIALS.items()})
    challenge = await start(other, node)
    with pytest.raises(errors.RecoveryRefused, match="this machine is not the node"):
        await other.send(challenge, other.proof(challenge))


async def test_a_node_with_a_tpm_continues_without_one_only_where_the_tenant_admits_it(
    world: World, machine: Machine
) -> None:
    without = SoftwareMachine(world)
    code = (await issue(world, node=machine.node)).codes[0]
    with pytest.raises(errors.TierNotAllowed):
        await start(without, machine.node, code.secret)
    await admit_software(world)
    policies = world.parts.operators.pcr_policies
    await policies.set_policy(ALICE, world.tenant, SetPcrPolicy("require", "standard"))
    with pytest.raises(errors.TpmRequired, match=r"for the profile of the node$"):
        await start(without, machine.node, code.secret)
    await policies.set_policy(ALICE, world.tenant, SetPcrPolicy("report", "standard"))
    challenge = await start(without, machine.node, code.secret)
    assert isinstance(await without.send(challenge, without.proof(challenge)), Activated)
    lease = await without.confirm()
    assert isinstance(lease, Lease)
    assert (lease.node, lease.tier, lease.generation) == (machine.node, "software", 2)
    assert (await case_of(world, machine.node)).situation == "hardware-replaced"
    await world.parts.nodes.seen.store()
    challenge_back, _ = await waits(machine, claim(machine.node))  # the old TPM is that of a replaced machine
    evidence = (await case_of(world, machine.node)).evidence
    assert (evidence.same_chip, evidence.former_chip) == (False, True)
    assert (await world.node(machine.node)).clone_cause == "replaced"
    assert challenge_back.activation == (await case_of(world, machine.node)).activation


async def test_a_machine_without_a_tpm_gets_one(world: World) -> None:
    await admit_software(world)
    machine = SoftwareMachine(world)
    challenge = await machine.start((await world.code()).secret)
    assert isinstance(await machine.send(challenge, machine.proof(challenge)), Activated)
    await machine.confirm()
    code = (await issue(world, node=machine.node)).codes[0]
    new = Machine(world, "a board with a TPM", fingerprint=machine.fingerprint())
    lease = await recovered(new, claim(machine.node), code.secret)
    assert isinstance(lease, Lease)
    assert (lease.node, lease.tier) == (machine.node, "attested")
    assert await world.stores.enrolled.nodes_with(world.tenant, machine.fingerprint()["board_serial"]) == []
