"""`cloud.fabric.service.published_trust.trust_reports`: reports are stored if they differ from the stored values."""

import pytest

from tests.cloud.fabric.fleets import fleet, session
from tests.cloud.fabric.publishing import Holders
from tests.cloud.fabric.support import World

pytestmark = pytest.mark.slow


async def test_a_reported_version_only_grows_and_is_at_most_the_published_one(world: World, holders: Holders) -> None:
    (machine,) = await fleet(world, 1)

    async def stored_after(version: int) -> int:
        await session(machine, version)
        await world.follower.run_once()
        return (await world.generation(machine.node, 1)).trust_version

    assert await stored_after(2**53) == 0
    assert await stored_after(9) == 0
    assert await stored_after(1) == 1
    await holders.publish()
    await holders.publish()
    assert await stored_after(3) == 3
    assert await stored_after(2) == 3
    assert await stored_after(-1) == 3
    assert len(world.parts.trust.trust_reports) == 0
