"""`cloud.fabric.service.uptime`: an outage of Fabric is not the silence of a node."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from cloud.fabric.service.uptime import BEAT_SECONDS, OUTAGE
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.signed.lease import Intervals
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.recovering import allow_grace, case_of, claim, recover, replacement, send, up, waits
from tests.cloud.fabric.support import Machine, World, run_once

pytestmark = pytest.mark.slow

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_after_an_outage_the_silence_begins_again(world: World, machine: Machine) -> None:
    await allow_grace(world, silence_minutes=120)
    new = replacement(machine)
    challenge, body = await waits(new, claim(machine.node))
    await up(world, HOUR)
    world.clock.forward(3 * HOUR)
    # The machine is faster than the first beat after the outage.
    assert isinstance(await send(new, challenge, body), AwaitedApproval)
    await run_once(world)
    assert (await case_of(world, machine.node)).silent_until == world.clock() + 2 * HOUR
    await up(world, 2 * HOUR - SECOND)
    assert isinstance(await send(new, challenge, body), AwaitedApproval)
    await up(world, SECOND)
    assert [type(await send(new, challenge, body)) for _ in range(2)] == [AwaitedApproval, Activated]


async def test_a_machine_that_starts_again_after_an_outage_waits_as_well(world: World, machine: Machine) -> None:
    await allow_grace(world, silence_minutes=120)
    new = replacement(machine)
    await waits(new, claim(machine.node))
    world.clock.forward(3 * HOUR)
    assert isinstance(await recover(new, claim(machine.node)), AwaitedApproval)
    await run_once(world)
    assert (await case_of(world, machine.node)).silent_until == world.clock() + 2 * HOUR


async def test_a_restart_is_no_outage(world: World, machine: Machine) -> None:
    await allow_grace(world, silence_minutes=120)
    await waits(replacement(machine), claim(machine.node))
    ends = (await case_of(world, machine.node)).silent_until
    world.clock.forward(OUTAGE)
    await run_once(world)
    assert (await case_of(world, machine.node)).silent_until == ends
    assert OUTAGE.total_seconds() > 3 * BEAT_SECONDS


async def test_a_node_with_a_long_slot_gets_its_time_to_come_back(world: World, machine: Machine) -> None:
    """Its pauses grow while the cloud is away."""
    await allow_grace(world, silence_minutes=120)
    node = await world.node(machine.node)
    async with world.stores.engine.transaction():
        await world.stores.nodes.update(replace(node, intervals=Intervals(heartbeat_seconds=3600)), "changed")
    await waits(replacement(machine), claim(machine.node))
    world.clock.forward(HOUR)
    await run_once(world)
    assert (await case_of(world, machine.node)).silent_until == world.clock() + 4 * HOUR


async def test_a_beat_of_a_clock_that_was_ahead_proves_nothing(world: World, machine: Machine) -> None:
    await allow_grace(world, silence_minutes=120)
    await waits(replacement(machine), claim(machine.node))
    await world.stores.installation.set_beat(world.clock() + 24 * HOUR)
    world.clock.forward(HOUR)
    await run_once(world)
    assert (await case_of(world, machine.node)).silent_until == world.clock() + 2 * HOUR
