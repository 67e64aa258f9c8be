"""`cloud.breakwater.store.revocation_status`: the status of a serial, and the revocation feed."""

from cloud.breakwater.store import Stores
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.revocation_status import FEED_PAGE, FeedRow, SerialStatus
from tests.cloud.breakwater.store.samples import DAY, HOUR, NOW, TBS, adopt, entry, issue, order


async def test_the_status_of_a_serial(stores: Stores) -> None:
    await adopt(stores)
    serial = await issue(stores, order(1, "service"))
    assert await stores.revocation_status.status(serial) == SerialStatus(
        "issued", "services-1", "services-1.1", None, 0
    )
    await stores.revocation_writes.revoke(serial, 1, NOW, entry())
    assert await stores.revocation_status.status(serial) == SerialStatus(
        "revoked", "services-1", "services-1.1", NOW, 1
    )
    await stores.issuance.record(order(2, "responder"), TBS, NOW)
    status = await stores.revocation_status.status(serial_text(2))
    assert status == SerialStatus("recorded", "services-1", "", None, 0)
    assert await stores.revocation_status.status("") is None


async def test_the_feed_is_ordered_by_number_and_leaves_out_expired_certificates(stores: Stores) -> None:
    await adopt(stores)
    assert await stores.revocation_status.head() == 0
    assert await stores.revocation_status.feed(0, NOW) == ()
    serials = [await issue(stores, order(number, "service")) for number in (1, 2, 3)]
    for serial in reversed(serials):
        await stores.revocation_writes.revoke(serial, 9, NOW, entry())
    expected = tuple(FeedRow(place, serial, NOW + DAY, 9) for place, serial in enumerate(reversed(serials), 1))
    assert await stores.revocation_status.feed(0, NOW) == expected
    assert await stores.revocation_status.feed(2, NOW + HOUR) == expected[2:]
    assert await stores.revocation_status.feed(0, NOW + DAY) == ()
    assert await stores.revocation_status.head() == 3
    assert len(expected) < FEED_PAGE
