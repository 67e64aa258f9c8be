"""Recoveries that run at the same time: one case of a node, one grace lease of a quota, one use of a code.

On PostgreSQL, where the keys of transactions order them. On SQLite transactions follow one another.
"""

import asyncio
from datetime import timedelta

import pytest

from cloud.fabric import errors
from protocol.messages.activation import Activated, AwaitedApproval
from tests.cloud.fabric.recovering import (
    OTHER_FINGERPRINT,
    allow_grace,
    case_of,
    claim,
    decide,
    recover,
    replacement,
    send,
    start,
    waits,
)
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import Machine, World, change

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("databases", ["postgresql"], indirect=True)]


async def sent_together(machines: list[Machine], nodes: list[str], code: str = "") -> list[object]:
    """The results of proofs that are sent at once. The challenges are made before, one after the other."""
    ready = []
    for machine, node in zip(machines, nodes, strict=True):
        challenge = await start(machine, claim(node), code)
        ready.append((machine, challenge, machine.proof(challenge)))
    return list(await asyncio.gather(*(send(*each) for each in ready), return_exceptions=True))


async def test_two_machines_open_one_case(world: World, machine: Machine) -> None:
    machines = [replacement(machine, f"board {number}") for number in range(3)]
    results = await sent_together(machines, [machine.node] * 3)
    assert sum(isinstance(result, AwaitedApproval) for result in results) == 1
    assert sum(isinstance(result, errors.RecoveryRefused) for result in results) == 2
    assert len(await world.stores.recovery_cases.page("", machine.node, "", "", 9)) == 1


async def test_a_quota_of_one_gives_one_grace_lease(world: World, machine: Machine) -> None:
    await allow_grace(world)
    other = Machine(world, "another node")
    await other.join((await world.code()).secret)
    boards = [replacement(machine, "its board"), replacement(other, "the other board")]
    results = await sent_together(boards, [machine.node, other.node])
    assert sorted(type(result).__name__ for result in results) == ["Activated", "AwaitedApproval"]
    assert len(await world.stores.recovery_cases.graces(world.tenant, world.clock() - timedelta(days=1), 9)) == 1


async def test_a_code_of_the_tenant_recovers_one_node(world: World, machine: Machine) -> None:
    other = Machine(world, "another node")
    await other.join((await world.code()).secret)
    code = (await issue(world, tenant=world.tenant)).codes[0]
    results = await sent_together([machine, other], [machine.node, other.node], code.secret)
    assert sorted(type(result).__name__ for result in results) == ["Activated", "RecoveryCodeRefused"]


async def test_a_decision_and_a_revocation_leave_no_licence(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    assert isinstance(await recover(new, claim(machine.node)), Activated)
    await new.confirm()
    case = await case_of(world, machine.node)
    await asyncio.gather(
        decide(world, case.id, "approved"), change(world, new, "revoke", "stolen"), return_exceptions=True
    )
    node = await world.node(machine.node)
    assert (node.standing, node.closed_up_to) == ("revoked", 2)
    assert (await world.generation(machine.node, 2)).statement_type == "revocation"


async def test_the_first_of_two_decisions_counts(world: World, machine: Machine) -> None:
    challenge, body = await waits(machine, claim(machine.node))
    case = await case_of(world, machine.node)
    await asyncio.gather(
        *(decide(world, case.id, "denied", f"by {number}") for number in range(3)), return_exceptions=True
    )
    assert (await world.actions(case.id)).count("recovery.denied") == 1
    with pytest.raises(errors.RecoveryRefused, match=f"by {(await case_of(world, machine.node)).reason[-1]}"):
        await send(machine, challenge, body)


async def test_the_node_goes_to_the_machine_with_the_code(world: World, machine: Machine) -> None:
    """A stranger waits with a stolen statement while the right machine uses its code. The order does not matter."""
    stranger, right = replacement(machine, "stranger"), replacement(machine, "right")
    stranger.fingerprint = dict(OTHER_FINGERPRINT)
    code = (await issue(world, node=machine.node)).codes[0]
    first = await start(stranger, claim(statement=machine.held))
    second = await start(right, claim(machine.node), code.secret)
    await asyncio.gather(
        send(stranger, first, stranger.proof(first)), send(right, second, right.proof(second)), return_exceptions=True
    )
    await right.confirm()
    node = await world.node(machine.node)
    assert right.activated is not None
    assert node.current_generation == right.activated.generation
    assert node.ek_hash == (await world.activation_of(machine.node, node.current_generation)).ek_hash
