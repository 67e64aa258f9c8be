"""Clients without a certificate cost a process a bounded amount of memory, file descriptors and log lines.

One process of both services meets every attack of the table. It may have `DESCRIPTORS` file descriptors. An honest
client at another address is answered during and after each attack. At the end SIGTERM stops the process while all
attacks hold their connections.
"""

import asyncio
from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.processes import ended
from tests.system.support.harness import Plan, new_cloud
from tests.system.support.hostile import ATTACKS, Bystander, Cost, Crowd, cost_of

DESCRIPTORS = 300
"""Half of them are for connections."""
MEBIBYTES_MAX = 16
"""The most that one attack may add. The largest adds 1 MiB on an idle machine."""
LINES_MAX = 10
"""Of all attacks together, with the lines of the background tasks."""
STOP_SECONDS = 3.0 * 2
"""Twice the promise, for a machine that runs other tests."""


async def attacked(cloud: Cloud, crowd: Crowd, bystander: Bystander, name: str) -> Cost:
    """Run one attack beside the bystander. Return its cost while its connections are open."""
    assert cloud.process is not None
    before = cost_of(cloud.process.pid, cloud.process.log)
    attack = asyncio.ensure_future(ATTACKS[name](crowd, 1))
    await bystander.ask_during(attack)
    await bystander.ask()
    return cost_of(cloud.process.pid, cloud.process.log).since(before)


@pytest.mark.long(6)
def test_hostile_clients_cost_a_bounded_amount_and_nobody_else(tmp_path: Path, installation: Cloud) -> None:
    cloud = new_cloud(tmp_path).copy_from(installation)

    async def attacks() -> dict[str, Cost]:
        costs = {}
        bystander = Bystander(cloud)
        async with Crowd(cloud) as crowd:
            await bystander.ask()
            for name in ATTACKS:
                costs[name] = await attacked(cloud, crowd, bystander, name)
            await bystander.close()
            assert cloud.process is not None
            # All connections of all attacks are still open here.
            stopped = await asyncio.to_thread(cloud.process.stop, STOP_SECONDS)
            assert stopped == 0
        assert bystander.answered >= 2 * len(ATTACKS)
        return costs

    with ended(cloud):
        cloud.up(Plan(descriptors=DESCRIPTORS))
        costs = asyncio.run(attacks())
    assert {name: cost.mebibytes for name, cost in costs.items() if cost.mebibytes > MEBIBYTES_MAX} == {}
    assert {name: cost.lines for name, cost in costs.items() if cost.lines > LINES_MAX} == {}
    assert sum(cost.lines for cost in costs.values()) <= LINES_MAX
    assert sum(cost.descriptors for cost in costs.values()) <= DESCRIPTORS // 2
