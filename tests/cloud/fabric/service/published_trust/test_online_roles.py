"""`cloud.fabric.service.published_trust.online_roles`: warnings about offline roles that expire soon."""

from datetime import timedelta

from cloud.fabric.service.published_trust.online_roles import warn_of_expiry
from tests.cloud.breakwater.support import START
from tests.cloud.fabric.publishing import Holders
from tests.cloud.fabric.support import World

DAY = timedelta(days=1)


async def test_a_warning_comes_sixty_days_before_the_targets_expire(world: World, holders: Holders) -> None:
    assert await warn_of_expiry(world.stores.repository, START + 305 * DAY) == ()
    assert await warn_of_expiry(world.stores.repository, START + 306 * DAY) == ("targets",)
    assert await warn_of_expiry(world.stores.repository, START + 4000 * DAY) == ("root", "targets")
    assert await world.stores.repository.newest("root") == 1
