"""`cloud.breakwater.store.revocation_writes`: writes reason, time, shard revision and event."""

import pytest

from cloud.breakwater.errors import NotAdmitted, ValueRefused
from cloud.breakwater.store import Stores
from cloud.breakwater.store.issuance import serial_text
from tests.cloud.breakwater.store.samples import DAY, HOUR, NOW, TBS, adopt, entry, issue, order, records


async def revision(stores: Stores) -> int:
    shard = await stores.shards.find("services-1.1")
    assert shard is not None
    return shard.revision


async def test_one_certificate_is_revoked_once(stores: Stores) -> None:
    await adopt(stores)
    serial = await issue(stores, order(1, "service"))
    await issue(stores, order(2, "service"))
    assert await stores.revocation_writes.revoke(serial, 1, NOW, entry())
    assert not await stores.revocation_writes.revoke(serial, 5, NOW + HOUR, entry())
    found = await records(stores)
    assert [(row.state, row.reason, row.revoked_at, row.has_event) for row in found.values()] == [
        ("revoked", 1, NOW, 1),
        ("issued", 0, None, 0),
    ]
    assert await revision(stores) == 1


async def test_only_a_services_certificate_is_revoked_by_its_serial(stores: Stores) -> None:
    await adopt(stores)
    await stores.generations.open(entry())
    with pytest.raises(ValueRefused, match="device"):
        await stores.revocation_writes.revoke(await issue(stores, order(1)), 1, NOW, entry())
    with pytest.raises(NotAdmitted):
        await stores.revocation_writes.revoke(serial_text(2), 1, NOW, entry())


async def test_every_valid_certificate_of_a_service_is_revoked(stores: Stores) -> None:
    """An orphan was reported already. It keeps its time, and is reported again with its reason."""
    await adopt(stores)
    await issue(stores, order(1, "service"))
    await stores.issuance.record(order(2, "service"), TBS, NOW)
    await issue(stores, order(3, "service", service="other"))
    orphan = order(4, "service")
    await stores.issuance.record(orphan, TBS, NOW)
    await stores.issuance.orphan(orphan, NOW - HOUR)
    assert await stores.revocation_writes.revoke_service("fabric", 1, NOW + DAY, entry()) == ()
    revoked = await stores.revocation_writes.revoke_service("fabric", 1, NOW, entry())
    assert revoked == tuple(serial_text(number) for number in (1, 2, 4))
    assert await stores.revocation_writes.revoke_service("fabric", 1, NOW, entry()) == ()
    found = await records(stores)
    assert {number: (row.state, row.revoked_at, row.has_event) for number, row in found.items()} == {
        1: ("revoked", NOW, 1),
        2: ("revoked", NOW, 1),
        3: ("issued", None, 0),
        4: ("revoked", NOW - HOUR, 1),
    }
    assert await revision(stores) == 2
