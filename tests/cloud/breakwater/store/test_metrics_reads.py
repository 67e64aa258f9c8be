"""`cloud.breakwater.store.metrics_reads`: bounded counts and the time of the next publication."""

from cloud.breakwater.store import Stores
from cloud.breakwater.store.shards import PublishedCrl
from tests.cloud.breakwater.store.samples import DAY, HOUR, NOW, TBS, adopt, entry, issue, order


async def test_records_are_counted_by_state(stores: Stores) -> None:
    await adopt(stores)
    serial = await issue(stores, order(1, "service"))
    await issue(stores, order(2, "service"))
    await issue(stores, order(3, "service"))
    await stores.issuance.record(order(4, "service"), TBS, NOW)
    await stores.revocation_writes.revoke(serial, 1, NOW, entry())
    assert await stores.metrics_reads.states() == {"recorded": 1, "issued": 2, "revoked": 1, "orphaned": 0}


async def test_the_publication_that_is_due_first(stores: Stores) -> None:
    """A shard without a CRL does not count."""
    for places in (1, 1, 1):
        await stores.shards.reserve("nodes-1", places, 1)
    assert await stores.metrics_reads.next_publication("nodes-1") is None
    for number in (1, 2):
        crl = PublishedCrl(f"nodes-1.{number}", 1, NOW, NOW + DAY, 0, b"crl")
        await stores.shards.publish(crl, 0, NOW + number * HOUR)
    assert await stores.metrics_reads.next_publication("nodes-1") == NOW + HOUR
    assert await stores.metrics_reads.next_publication("services-1") is None
