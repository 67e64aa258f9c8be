"""`cloud.breakwater.store.issuance`: which records are refused, completed or orphaned, and reads of them."""

from datetime import timedelta

import pytest

from cloud.breakwater.errors import (
    AuthorityRetired,
    Conflict,
    CsrRefused,
    GenerationClosed,
    IssuerError,
    NotAdmitted,
    StillRunning,
)
from cloud.breakwater.pkix.profiles import PROFILE_VERSION
from cloud.breakwater.store import Stores
from cloud.breakwater.store.issuance import Device, Order, ServiceHostName, Stored, serial_text
from tests.cloud.breakwater.store.samples import (
    ACTOR,
    CERTIFICATE,
    DAY,
    HOUR,
    NODE,
    NOW,
    OTHER_TENANT,
    TBS,
    TENANT,
    adopt,
    entry,
    issue,
    key_hash,
    order,
    records,
    states,
)

DONE = Stored(CERTIFICATE, "services-1")


@pytest.fixture
async def stores(stores: Stores) -> Stores:
    """Stores with two active authorities and an open generation."""
    await adopt(stores)
    await stores.generations.open(entry())
    return stores


async def test_a_record_has_the_fields_of_its_order(stores: Stores) -> None:
    await stores.issuance.record(order(1), TBS, NOW + HOUR)
    (row,) = (await records(stores)).values()
    assert (row.serial, row.request_key, row.profile, row.state) == (serial_text(1), f"{ACTOR}/1", "device", "recorded")
    assert (row.tenant, row.node, row.generation, row.service) == (TENANT, NODE, 1, "")
    assert (row.spki_sha256, row.tbs, row.certificate) == (key_hash(1), TBS, None)
    assert (row.not_before, row.not_after, row.recorded_at, row.revoked_at) == (NOW, NOW + DAY, NOW + HOUR, None)
    assert (row.authority, row.shard, row.profile_version) == ("nodes-1", "nodes-1.1", PROFILE_VERSION)
    assert (row.reason, row.has_event) == (0, 0)


REFUSED: dict[str, tuple[Order, type[IssuerError]]] = {
    "never opened": (order(9, generation=2), GenerationClosed),
    "another tenant": (order(9, tenant=OTHER_TENANT), GenerationClosed),
    "no such authority": (order(9, authority="nodes-9"), AuthorityRetired),
    "a key of another generation's": (order(9, generation=3, key=1), CsrRefused),
    "a key of a service's": (order(9, key=2), CsrRefused),
    "a key of a node's": (order(9, "service", key=1), CsrRefused),
    "a key of another service": (order(9, "service", service="other", key=2), CsrRefused),
    "a request of another key": (order(9, request_key=f"{ACTOR}/1"), Conflict),
    "a request of a revoked certificate": (order(9, "service", key=3, request_key=f"{ACTOR}/3"), Conflict),
    "a key that was compromised": (order(9, "service", key=3), CsrRefused),
    "a revoked certificate shown": (order(9, "service", shown=serial_text(3)), NotAdmitted),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_records(stores: Stores, case: str) -> None:
    """The database has three records: 1 of a device, 2 of a service, 3 of a revoked service. Refusals write nothing."""
    await stores.generations.open(entry(3))
    await issue(stores, order(1))
    await issue(stores, order(2, "service"))
    await stores.revocation_writes.revoke(await issue(stores, order(3, "service")), 1, NOW, entry())
    made, error = REFUSED[case]
    with pytest.raises(error):
        await stores.issuance.record(made, TBS, NOW)
    assert await states(stores) == {1: "issued", 2: "issued", 3: "revoked"}


async def test_a_superseded_key_is_recorded_again(stores: Stores) -> None:
    await stores.revocation_writes.revoke(await issue(stores, order(1, "service")), 4, NOW, entry())
    await issue(stores, order(2, "service", key=1))
    assert await states(stores) == {1: "revoked", 2: "issued"}


async def test_responders_are_issued_after_their_authority_stopped_issuing(stores: Stores) -> None:
    prepared = (await stores.authorities.rows())[1]
    assert prepared.id == "services-1"
    successor = type(prepared)("services-2", "services", 2, "prepared", b"", "file:x", NOW)
    await stores.authorities.prepare(successor, entry())
    with pytest.raises(AuthorityRetired):
        await stores.issuance.record(order(1, "responder", authority="services-2"), TBS, NOW)
    await stores.authorities.move("services-2", "active", "", entry())
    await issue(stores, order(2, "responder"))
    with pytest.raises(AuthorityRetired):
        await stores.issuance.record(order(3, "service"), TBS, NOW)
    await stores.authorities.move("services-1", "revoked", "", entry())
    with pytest.raises(AuthorityRetired):
        await stores.issuance.record(order(4, "responder"), TBS, NOW)


async def test_a_repeat_gets_the_certificate_while_it_is_useful(stores: Stores) -> None:
    first = order(1, "service")
    await issue(stores, first)
    again = order(2, "service", key=1, request_key=first.request_key)
    assert await stores.issuance.record(again, TBS, NOW) == DONE
    assert await stores.issuance.record(again, TBS, NOW + DAY) is None
    assert {number: row.request_key for number, row in (await records(stores)).items()} == {
        1: None,
        2: first.request_key,
    }


async def test_a_repeat_of_a_record_without_a_certificate(stores: Stores) -> None:
    """On a shared database the record stays until no other process can be working on it."""
    first = order(1, "service")
    await stores.issuance.record(first, TBS, NOW)
    again = order(2, "service", key=1, request_key=first.request_key)
    if stores.issuance.shared:
        with pytest.raises(StillRunning):
            await stores.issuance.record(again, TBS, NOW)
    assert await stores.issuance.record(again, TBS, NOW + HOUR) is None
    assert await states(stores) == {1: "orphaned", 2: "recorded"}
    orphan = (await records(stores))[1]
    assert (orphan.request_key, orphan.revoked_at, orphan.has_event) == (None, NOW + HOUR, 1)


async def test_a_certificate_is_stored_once_and_not_after_a_close(stores: Stores) -> None:
    for generation in (1, 2, 3):
        await stores.generations.open(entry(generation))
        await stores.issuance.record(order(generation, "session", generation=generation), TBS, NOW)
    made = order(2, "session", generation=2)
    assert await stores.issuance.store_certificate(made, CERTIFICATE)
    assert not await stores.issuance.store_certificate(made, b"other")
    await stores.generations.close_one(entry(3), 4)
    await stores.generations.close_up_to(entry(1), 4)
    for generation in (1, 3):
        assert not await stores.issuance.store_certificate(order(generation, generation=generation), CERTIFICATE)
    assert not await stores.issuance.store_certificate(order(4), CERTIFICATE)
    assert await states(stores) == {1: "revoked", 2: "issued", 3: "revoked"}
    assert (await records(stores))[2].certificate == CERTIFICATE


async def test_orphans(stores: Stores) -> None:
    for number in (1, 2, 3, 4):
        await stores.issuance.record(order(number, "service"), TBS, NOW + number * HOUR)
    await stores.issuance.store_certificate(order(1, "service"), CERTIFICATE)
    assert await stores.issuance.orphan(order(2, "service"), NOW)
    assert not await stores.issuance.orphan(order(2, "service"), NOW)
    assert not await stores.issuance.orphan(order(1, "service"), NOW)
    assert await stores.issuance.orphan_stale(NOW + 5 * HOUR, 2 * HOUR) == [serial_text(3)]
    assert await stores.issuance.orphan_stale(NOW + 5 * HOUR, 2 * HOUR) == []
    assert await states(stores) == {1: "issued", 2: "orphaned", 3: "orphaned", 4: "recorded"}
    assert [await stores.issuance.is_revoked(number) for number in (1, 2, 3, 4, 5)] == [False, True, True, False, False]
    found = await records(stores)
    assert [(found[number].has_event, found[number].revoked_at) for number in (2, 3)] == [(1, NOW), (1, NOW + 5 * HOUR)]


async def test_the_newest_device_of_a_generation(stores: Stores) -> None:
    assert await stores.issuance.device(NODE, 1) is None
    for number, hours in ((1, 2), (2, 1)):
        await issue(stores, order(number), NOW + hours * HOUR)
    await issue(stores, order(3, "session"), NOW + 3 * HOUR)
    await stores.issuance.record(order(4), TBS, NOW + 4 * HOUR)
    assert await stores.issuance.device(NODE, 1) == Device(key_hash(1), NOW, NOW + DAY)
    assert await stores.issuance.device(NODE, 2) is None


async def test_renewals_of_a_caller_are_counted_up_to_a_number(stores: Stores) -> None:
    for number in (1, 2, 3):
        await issue(stores, order(number), NOW + number * HOUR)
    await issue(stores, order(4, caller="other", request_key="other/4"), NOW + 4 * HOUR)
    await issue(stores, order(5, "session"), NOW + 5 * HOUR)

    async def count(since: timedelta, but: str = "", count_max: int = 10) -> int:
        return await stores.issuance.renewals(ACTOR, NODE, 1, NOW + since, but, count_max)

    assert await count(timedelta(0)) == 3
    assert await count(HOUR) == 2
    assert await count(timedelta(0), but=f"{ACTOR}/2") == 2
    assert await count(timedelta(0), count_max=1) == 1


async def test_host_names_are_added_once_in_their_order(stores: Stores) -> None:
    names = (ServiceHostName("dns", "b.test"), ServiceHostName("ip", "::1"), ServiceHostName("dns", "a.test"))
    for _ in range(2):
        await stores.issuance.add_hosts("fabric", names)
    await stores.issuance.add_hosts("other", names[:1])
    assert await stores.issuance.hosts("fabric") == names
    assert await stores.issuance.hosts("none") == ()


async def test_a_database_that_answers(stores: Stores) -> None:
    await stores.issuance.ping()
