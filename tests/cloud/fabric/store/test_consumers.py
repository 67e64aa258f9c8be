"""`cloud.fabric.store.tokens`: which consumers may read."""

from datetime import UTC, datetime, timedelta

import msgspec

from cloud.fabric.store import Stores
from cloud.fabric.store.tokens import ConsumerRow

NOW = datetime(2026, 12, 1, tzinfo=UTC)
ROW = ConsumerRow("cns_1", "ten_1", "reports", "U", NOW, NOW + timedelta(days=1), None)


async def test_a_consumer_reads_until_it_expires_or_is_revoked(stores: Stores) -> None:
    other = msgspec.structs.replace(ROW, id="cns_2", tenant="ten_2")
    for row in (ROW, other):
        await stores.consumers.insert(row)
    assert await stores.consumers.active(NOW) == {"cns_1": "ten_1", "cns_2": "ten_2"}
    await stores.consumers.revoke("cns_1", NOW)
    await stores.consumers.revoke("cns_1", NOW + timedelta(hours=1))
    assert await stores.consumers.active(NOW) == {"cns_2": "ten_2"}
    assert await stores.consumers.active(NOW + timedelta(days=1)) == {}
    assert await stores.consumers.find("cns_1") == msgspec.structs.replace(ROW, revoked_at=NOW)
    assert await stores.consumers.find("cns_9") is None
    assert await stores.consumers.page("ten_2", "", 10) == [other]
    assert await stores.consumers.page("ten_2", "cns_2", 10) == []
