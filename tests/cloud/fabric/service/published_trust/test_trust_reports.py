"""`cloud.fabric.service.published_trust.trust_reports`: what nodes report is stored where it is news."""

import pytest

from tests.cloud.fabric.fleets import fleet, session
from tests.cloud.fabric.publishing import Holders
from tests.cloud.fabric.support import World

pytestmark = pytest.mark.slow


async def test_what_nodes_tell_only_grows_and_is_bounded_by_what_was_published(world: World, holders: Holders) -> None:
    (machine,) = await fleet(world, 1)

    async def told(version: int) -> int:
        await session(machine, version)
        await world.follower.run_once()
        return (await world.generation(machine.node, 1)).trust_version

    assert await told(2**53) == 0
    assert await told(9) == 0
    assert await told(1) == 1
    await holders.publish()
    await holders.publish()
    assert await told(3) == 3
    assert await told(2) == 3
    assert await told(-1) == 3
    assert len(world.parts.trust.trust_reports) == 0
