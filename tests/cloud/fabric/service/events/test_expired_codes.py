"""`cloud.fabric.service.events.expired_codes`: each expiry is stored once."""

from datetime import timedelta

from cloud.fabric.service.events.expired_codes import ExpiredCodes
from tests.cloud.fabric.published import events_of
from tests.cloud.fabric.support import World


async def test_a_code_expires_once_at_its_end(world: World) -> None:
    made = await world.code(life=timedelta(hours=1))
    later = await world.code(life=timedelta(hours=2))
    expired = ExpiredCodes(now=world.clock, transaction=world.stores.transaction, codes=world.stores.codes)
    await expired.step()
    assert await events_of(world, "code", made.code.id) == ["created"]
    world.clock.forward(timedelta(hours=1))
    for _ in range(2):
        await expired.step()
    assert await events_of(world, "code", made.code.id) == ["created", "expired"]
    assert await events_of(world, "code", later.code.id) == ["created"]
