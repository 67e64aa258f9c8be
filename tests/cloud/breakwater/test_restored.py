"""After a restore: events have another epoch, one-time secrets have ended, and the time is stored."""

from datetime import timedelta

from cloud.breakwater.restored import mark_restored
from tests.cloud.breakwater.support import Issuer


async def test_the_epoch_rises_and_secrets_end(issuer: Issuer) -> None:
    parts = issuer.parts
    now = issuer.clock()
    secret = await parts.enrolments.create("fabric", "operator/a", timedelta(hours=1))
    assert secret
    epoch = (await parts.events.change_feed.after("", 0)).epoch
    await mark_restored(parts.stores.engine, now, now - timedelta(hours=3), "whole")
    assert (await parts.events.change_feed.after("", 0)).epoch > epoch
    assert [row.expires_at for row in await parts.enrolments.list()] == [now]
    assert await parts.stores.generation_lists.restored() == int(now.timestamp() * 1000)
    later = now + timedelta(minutes=1)
    await mark_restored(parts.stores.engine, later, now, "whole")
    assert await parts.stores.generation_lists.restored() == int(later.timestamp() * 1000)
