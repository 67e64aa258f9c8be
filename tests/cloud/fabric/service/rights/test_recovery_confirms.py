"""`cloud.fabric.service.rights.recovery_confirms`: the end of a grace lease, and the case at the confirm of a machine."""

from datetime import timedelta

import pytest

from cloud.fabric import errors
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.signed.statements import Lease
from tests.cloud.fabric.recovering import (
    allow_grace,
    case_of,
    claim,
    decide,
    recover,
    recovered,
    replacement,
    send,
    waits,
)
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import Machine, World
from tests.cloud.fabric.support import decide as decide_activation

pytestmark = pytest.mark.slow

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(("grace_hours", "case_days", "hours"), [(5, 14, 5), (72, 1, 24)])
async def test_a_grace_lease_ends_with_its_hours_or_its_case(
    world: World, machine: Machine, grace_hours: int, case_days: int, hours: int
) -> None:
    await allow_grace(world, grace_hours=grace_hours, case_days=case_days)
    lease = await recovered(replacement(machine), claim(machine.node))
    assert lease.terminate_at == world.clock() + hours * HOUR == (await case_of(world, machine.node)).grace_until


async def test_another_recovery_of_the_same_case_has_the_same_end(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    first = await recovered(new, claim(machine.node))
    world.clock.forward(DAY)
    again = await recovered(new, claim(machine.node))  # its disk was lost too
    assert isinstance(again, Lease)
    assert (again.generation, again.terminate_at, again.recovery) == (3, first.terminate_at, first.recovery)
    assert (await case_of(world, machine.node)).generation == 3


async def test_a_grace_lease_that_has_ended_is_not_begun_again(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    await recovered(new, claim(machine.node))
    world.clock.forward(71 * HOUR)
    assert isinstance(await recover(new, claim(machine.node)), Activated)
    world.clock.forward(2 * HOUR)
    with pytest.raises(errors.RecoveryRefused):
        await new.confirm()
    assert (await world.node(machine.node)).current_generation == 2


async def test_the_grace_lease_does_not_enrol_the_fingerprint(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    new.fingerprint = {**new.fingerprint, "mac": "ef" * 32}
    before = (await world.node(machine.node)).enrolled
    assert isinstance(await recover(new, claim(machine.node)), Activated)
    await new.confirm()
    assert (await world.node(machine.node)).enrolled == before


async def test_a_confirm_by_another_right_ends_the_case(world: World, machine: Machine) -> None:
    """The machine before comes back by a person's decision. The grace lease of before must not close it again."""
    await allow_grace(world)
    new = replacement(machine)
    await recovered(new, claim(machine.node))
    challenge = await machine.start((await world.code()).secret)
    body = machine.proof(challenge)
    assert isinstance(await send(machine, challenge, body), AwaitedApproval)
    await decide_activation(world, challenge.activation, "approved")
    assert isinstance(await send(machine, challenge, body), Activated)
    await machine.confirm()
    case = await case_of(world, machine.node)
    assert (case.state, case.reason) == ("lapsed", f"superseded by the activation {challenge.activation}")
    assert (await world.actions(case.id))[-1] == "recovery.lapsed"
    world.clock.forward(HOUR)
    await waits(new, claim(machine.node))
    assert (await world.node(machine.node)).current_generation == 3, "a person must decide"


async def test_the_case_names_the_machine_that_is_replaced_at_the_confirm(world: World, machine: Machine) -> None:
    """Between a denial and its correction the machine before has activated again, with its own generation."""
    new = replacement(machine)
    await waits(new, claim(machine.node))
    case = await decide(world, (await case_of(world, machine.node)).id, "denied", "mistaken")
    await machine.join((await world.code()).secret)
    await decide(world, case.id, "approved")
    await recovered(new, claim(machine.node))
    await world.parts.nodes.seen.store()
    after = await case_of(world, machine.node)
    assert (after.id, after.old_generation, after.generation) == (case.id, 2, 3)
    with pytest.raises(errors.GenerationClosed):
        await machine.session()
    assert (await world.node(machine.node)).clone_cause == "replaced", "the return of the replaced machine is noticed"


async def test_a_code_that_is_issued_before_the_confirm_does_not_end_the_grace(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    assert isinstance(await recover(new, claim(machine.node)), Activated)
    case = await case_of(world, machine.node)
    code = (await issue(world, case=case.id)).codes[0]
    lease = await new.confirm()
    assert isinstance(lease, Lease)
    assert lease.recovery == case.id
    assert (await case_of(world, machine.node)).state == "code_issued"
    assert not (await recovered(new, claim(machine.node), code.secret)).recovery
    assert (await case_of(world, machine.node)).state == "consumed"
