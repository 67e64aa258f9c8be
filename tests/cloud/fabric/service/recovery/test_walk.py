"""Random sequences of recoveries keep the invariants of `tests.cloud.fabric.recovery_walk`."""

from pathlib import Path

import pytest

from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.recovery_walk import Walk
from tests.cloud.fabric.support import copied, world_at

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(2))
async def test_random_recoveries_keep_the_invariants(home: Path, tmp_path: Path, seed: int) -> None:
    async with world_at(home, copied(home, tmp_path), Clock()) as world:
        done = await Walk(world, seed).run(50)
    assert sum(done.values()) == 50
