"""`cloud.breakwater.store.checker_reads`: reads of records, shards and CRLs."""

from datetime import timedelta

from msgspec.structs import replace

from cloud.breakwater.store import Stores
from cloud.breakwater.store.checker_reads import CheckedCrl, CheckedShard, ShardEntry, Tally
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.shards import PublishedCrl
from tests.cloud.breakwater.store.samples import (
    CERTIFICATE,
    DAY,
    HOUR,
    NODE,
    NODES_1,
    NOW,
    TBS,
    TENANT,
    adopt,
    entry,
    issue,
    key_hash,
    order,
    records,
)


async def test_records_say_whether_their_generation_is_closed(stores: Stores) -> None:
    await adopt(stores)
    for generation in (1, 2, 3):
        await stores.generations.open(entry(generation))
        await issue(stores, order(generation, "session", generation=generation))
    await issue(stores, order(4, "service"))
    await stores.generations.close_up_to(entry(1), 4)
    await stores.generations.close_one(entry(3), 4)
    found = await records(stores)
    assert {number: (row.closed_up_to, row.closed_alone) for number, row in found.items()} == {
        1: (1, 0),
        2: (1, 0),
        3: (1, 1),
        4: (0, 0),
    }
    row = found[2]
    assert (row.request_key, row.profile, row.state, row.tenant, row.node) == (
        "service/fabric/2",
        "session",
        "issued",
        TENANT,
        NODE,
    )
    assert (row.spki_sha256, row.tbs, row.certificate) == (key_hash(2), TBS, CERTIFICATE)
    assert (row.not_before, row.not_after, row.recorded_at, row.revoked_at) == (NOW, NOW + DAY, NOW, None)
    assert await stores.checker_reads.count() == 4
    assert [row.serial for row in await stores.checker_reads.records(serial_text(3))] == [serial_text(4)]
    assert await stores.checker_reads.state(serial_text(4)) == "issued"
    assert await stores.checker_reads.state("") is None


async def test_a_shard_is_seen_with_its_lists_and_entries(stores: Stores) -> None:
    await adopt(stores)
    serial = await issue(stores, order(1, "service"), NOW - HOUR)
    await issue(stores, order(2, "service"))
    await stores.revocation_writes.revoke(serial, 1, NOW, entry())
    for number in (1, 2**40):
        crl = PublishedCrl("services-1.1", number, NOW, NOW + DAY, 1, b"\x00crl")
        assert await stores.shards.publish(crl, 1, NOW + HOUR)
    view = await stores.checker_reads.view("services-1.1")
    assert view is not None
    assert view.shard == CheckedShard("services-1.1", "services-1", 100, 1, 1, 0, 2**40, 2)
    assert view.crls == tuple(CheckedCrl(number, NOW, NOW + DAY, 1, b"\x00crl") for number in (2**40, 1))
    assert view.entries == (ShardEntry(serial, NOW, 1, NOW + DAY),)
    assert await stores.checker_reads.view("services-1.9") is None
    assert await stores.checker_reads.shards("") == ["nodes-1.1", "services-1.1"]
    assert await stores.checker_reads.shards("nodes-1.1") == ["services-1.1"]
    assert await stores.checker_reads.oldest("services-1.1") == NOW - HOUR
    assert await stores.checker_reads.oldest("nodes-1.1") is None


async def test_certificates_are_tallied_by_kind_and_state(stores: Stores) -> None:
    await adopt(stores)
    assert await stores.checker_reads.tally(NOW) == ()
    for number in (1, 2):
        await issue(stores, order(number, "service"))
    await stores.revocation_writes.revoke(serial_text(2), 1, NOW, entry())
    await stores.generations.open(entry())
    await issue(stores, order(3))
    expected = [
        Tally("nodes-1", "device", "issued", 1, 1),
        Tally("services-1", "service", "issued", 1, 1),
        Tally("services-1", "service", "revoked", 1, 1),
    ]
    assert list(await stores.checker_reads.tally(NOW)) == expected
    assert list(await stores.checker_reads.tally(NOW + DAY)) == [replace(tally, valid=0) for tally in expected]


async def test_certificates_that_still_depend_on_an_authority(stores: Stores) -> None:
    """Counted are valid sessions, and the newest valid certificate of each subject, of open generations."""
    await adopt(stores)
    for generation in (1, 2, 3):
        await stores.generations.open(entry(generation))
        await issue(stores, order(generation, generation=generation))
        await issue(stores, order(10 + generation, "session", generation=generation))
    await issue(stores, order(20, "service", authority="nodes-1"))
    await issue(stores, order(21, "responder", authority="nodes-1"))
    assert await stores.checker_reads.dependents("nodes-1", NOW) == 7
    assert await stores.checker_reads.dependents("nodes-1", NOW + DAY) == 0
    assert await stores.checker_reads.dependents("services-1", NOW) == 0
    await stores.generations.close_up_to(entry(1), 4)
    await stores.generations.close_one(entry(3), 4)
    assert await stores.checker_reads.dependents("nodes-1", NOW) == 3
    later = NOW + timedelta(seconds=1)
    await stores.authorities.prepare(replace(NODES_1, id="nodes-2", number=2, state="prepared"), entry())
    await stores.authorities.move("nodes-2", "active", "", entry())
    await issue(stores, order(30, generation=2, authority="nodes-2", shard="nodes-2.1"), later)
    await issue(stores, order(31, "session", generation=2, authority="nodes-2"), later)
    assert await stores.checker_reads.dependents("nodes-1", NOW) == 2
    assert await stores.checker_reads.dependents("nodes-2", NOW) == 2
