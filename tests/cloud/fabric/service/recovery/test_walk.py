"""Random sequences of recoveries keep the invariants of `tests.cloud.fabric.recovery_walk`."""

from pathlib import Path

import pytest

from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.recovery_walk import Walk
from tests.cloud.fabric.support import copied, world_at

pytestmark = pytest.mark.slow


STEPS = 50


async def test_random_recoveries_keep_the_invariants(home: Path, tmp_path: Path) -> None:
    """`make drills PART=recovery-walk` takes 200 walks of 120 steps."""
    async with world_at(home, copied(home, tmp_path), Clock()) as world:
        walk = Walk(world, 0)
        done = await walk.run(STEPS)
    assert sum(done.values()) - done["confirmed"] == STEPS
    assert done["confirmed"] >= 1
    assert any(generation > 1 for _, generation in walk.leases), "no machine got its node back"
