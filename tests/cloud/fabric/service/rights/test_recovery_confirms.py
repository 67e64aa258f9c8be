"""`cloud.fabric.service.rights.recovery_confirms`: the end of a grace lease is the earliest of its bounds, and is kept."""

from datetime import timedelta

import pytest

from protocol.messages.activation import Activated
from protocol.signed.statements import Lease
from tests.cloud.fabric.recovering import allow_grace, case_of, claim, recover, recovered, replacement
from tests.cloud.fabric.support import Machine, World

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


async def test_the_grace_lease_does_not_enrol_the_fingerprint(world: World, machine: Machine) -> None:
    await allow_grace(world)
    new = replacement(machine)
    new.fingerprint = {**new.fingerprint, "mac": "ef" * 32}
    before = (await world.node(machine.node)).enrolled
    assert isinstance(await recover(new, claim(machine.node)), Activated)
    await new.confirm()
    assert (await world.node(machine.node)).enrolled == before
