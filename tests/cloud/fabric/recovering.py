"""Helper: machines that ask for their node back, and an operator who decides about their cases."""

from datetime import timedelta
from typing import Any

import msgspec

from cloud.fabric.service.uptime import OUTAGE
from cloud.fabric.store.keys import tenant_key
from cloud.fabric.store.rows import RecoveryCaseRow
from protocol.encoding import json_encode, sha256_hex
from protocol.ids import NodeId, RecoveryId
from protocol.messages.activation import Activated, AwaitedApproval, Challenge, ProveActivation, StartActivation
from protocol.messages.recovery import RecoveryClaim
from tests.cloud.fabric.support import ALICE, FINGERPRINT, Machine, World

OTHER_FINGERPRINT = {"board_serial": "cd" * 32}


def claim(node: str = "", **changes: Any) -> RecoveryClaim:
    return RecoveryClaim(**{"node": node, "situation": "reinstalled", **changes})


async def start(machine: Machine, claims: RecoveryClaim, code: str = "", host: str = "192.0.2.7") -> Challenge:
    body = StartActivation(code, machine.evidence(), "1.0", claims)
    challenge = await machine.world.parts.nodes.activations.start(body, host)
    machine.secret = machine.world.entropy.last[32]
    return challenge


async def send(machine: Machine, challenge: Challenge, body: ProveActivation) -> Activated | AwaitedApproval:
    digest = sha256_hex(json_encode(body))
    answer = await machine.world.parts.nodes.activations.prove(challenge.activation, body, digest)
    if isinstance(answer, Activated):
        machine.activated, machine.held = answer, ""
    return answer


async def recover(machine: Machine, claims: RecoveryClaim, code: str = "") -> Activated | AwaitedApproval:
    """Start a recovery and prove it."""
    challenge = await start(machine, claims, code)
    return await send(machine, challenge, machine.proof(challenge))


async def recovered(machine: Machine, claims: RecoveryClaim, code: str = "") -> Any:
    """Recover and confirm. Returns the statement."""
    assert isinstance(await recover(machine, claims, code), Activated)
    return await machine.confirm()


async def waits(machine: Machine, claims: RecoveryClaim, code: str = "") -> tuple[Challenge, ProveActivation]:
    """Start a recovery and prove it; a person must decide."""
    challenge = await start(machine, claims, code)
    body = machine.proof(challenge)
    assert isinstance(await send(machine, challenge, body), AwaitedApproval)
    return challenge, body


def replacement(machine: Machine, label: str = "new board") -> Machine:
    """The machine of a node with another TPM, and the same other parts."""
    return Machine(machine.world, label, fingerprint=dict(FINGERPRINT), lease_version=2)


async def case_of(world: World, node: NodeId) -> RecoveryCaseRow:
    """The newest case of a node."""
    case = await world.stores.recovery_cases.latest(node)
    assert case is not None
    return case


async def up(world: World, time: timedelta) -> None:
    """Let a time pass in which Fabric runs."""
    ends = world.clock() + time
    while (left := ends - world.clock()) > timedelta():
        world.clock.forward(min(left, OUTAGE))
        await world.parts.nodes.uptime.beat()


async def allow_grace(world: World, quota: int = 1, *, silence_minutes: int = 0, **changes: int) -> None:
    """Let the tenant give grace leases without a person. Fabric has run until now."""
    await world.parts.nodes.uptime.beat()
    tenant = await world.stores.tenants.find(world.tenant)
    assert tenant is not None
    policy = msgspec.structs.replace(tenant.recovery, grace_quota=quota, silence_minutes=silence_minutes, **changes)
    async with world.stores.transaction(tenant_key(world.tenant)):
        await world.stores.tenants.set_recovery(world.tenant, policy)


async def decide(world: World, case: RecoveryId, decision: str, reason: str = "") -> RecoveryCaseRow:
    """Approve or deny a case, in a transaction as that of the operators' use case."""
    decisions = world.parts.nodes.case_decisions
    row = await decisions.find(case)
    async with world.stores.transaction(*decisions.keys(row), reads=await decisions.reads(row)):
        decides = decisions.approve if decision == "approved" else decisions.deny
        row = await decides(await decisions.find(case), by=ALICE.id, actor=f"operator:{ALICE.id}", reason=reason)
    decisions.after(row)
    return row


async def seats(world: World, node: NodeId) -> int:
    """Seats taken of the code that gave the node its seat."""
    code = await world.stores.codes.find((await world.node(node)).code)
    assert code is not None
    return code.seats_taken
