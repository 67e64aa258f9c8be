"""Fixtures: a machine without a network, activated by an operator."""

import pytest

from tests.cloud.fabric.carried import Site, a_site
from tests.cloud.fabric.support import World


@pytest.fixture
async def site(world: World) -> Site:
    """A machine that has activated without a network."""
    made = a_site(world)
    await made.activate((await world.code()).secret)
    return made
