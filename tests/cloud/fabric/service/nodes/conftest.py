"""A machine that has joined."""

import pytest

from tests.cloud.fabric.support import Machine, World


@pytest.fixture
async def machine(world: World) -> Machine:
    made = Machine(world)
    await made.join((await world.code()).secret)
    return made
