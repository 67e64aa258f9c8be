"""After a restore: numbers of the feed are skipped, one-time secrets have ended, and the time is stored."""

from datetime import timedelta

from cloud.breakwater.restored import FEED_GAP, mark_restored
from tests.cloud.breakwater.support import Issuer


async def test_numbers_are_skipped_and_secrets_end(issuer: Issuer) -> None:
    parts = issuer.parts
    now = issuer.clock()
    secret = await parts.enrolments.create("fabric", "operator/a", timedelta(hours=1))
    assert secret
    head = await parts.stores.revocation_status.head()
    await mark_restored(parts.stores.engine, now, now - timedelta(hours=3), "whole")
    assert await parts.stores.revocation_status.head() == head + FEED_GAP
    assert [row.expires_at for row in await parts.enrolments.list()] == [now]
    assert await parts.stores.generation_lists.restored() == int(now.timestamp() * 1000)
    later = now + timedelta(minutes=1)
    await mark_restored(parts.stores.engine, later, now, "whole")
    assert await parts.stores.generation_lists.restored() == int(later.timestamp() * 1000)
