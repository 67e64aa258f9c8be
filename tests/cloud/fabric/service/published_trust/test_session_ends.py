"""`cloud.fabric.service.published_trust.session_ends`: the end is stored before a session certificate is returned."""

from datetime import timedelta

import pytest

from cloud.fabric.store.installation import sessions_until
from cloud.mtls.peer import key_id_of
from tests.cloud.fabric.fleets import fleet, session
from tests.cloud.fabric.support import World

pytestmark = pytest.mark.slow


HOUR = timedelta(hours=1)


async def test_the_end_of_an_issuers_sessions_is_stored_before_a_certificate_is_returned(world: World) -> None:
    (machine,) = await fleet(world, 1)
    issuer = key_id_of(world.trust.node_issuers[0])
    until = sessions_until(await world.stores.installation.read_all())[issuer]
    assert world.clock() + 12 * HOUR <= until <= world.clock() + 13 * HOUR
    world.clock.forward(2 * HOUR)
    await session(machine)
    later = sessions_until(await world.stores.installation.read_all())[issuer]
    assert later == until + 2 * HOUR
    await world.stores.installation.raise_sessions_until(issuer, until)
    assert sessions_until(await world.stores.installation.read_all())[issuer] == later
