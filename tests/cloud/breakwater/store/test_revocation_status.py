"""`cloud.breakwater.store.revocation_status`: the status of a serial."""

from cloud.breakwater.store import Stores
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.revocation_status import SerialStatus
from tests.cloud.breakwater.store.samples import NOW, TBS, adopt, entry, issue, order


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
