"""`cloud.breakwater.store.shards`: reserved places, CRL numbers, CRL entries, and stored CRLs."""

from typing import Any

import pytest
from msgspec.structs import replace

from cloud.breakwater.store import Stores
from cloud.breakwater.store.shards import CRLS_KEPT, Draw, PublishedCrl, RevokedRow, Shard, crl_id, shard_id
from tests.cloud.breakwater.store.samples import DAY, HOUR, NODES_1, NOW, adopt, entry, issue, order

UNIX_MS = int(NOW.timestamp() * 1000)
SHARD = Shard("nodes-1.1", "nodes-1", 0, -1, 0, None)


def test_the_spelling_of_keys() -> None:
    assert (shard_id("nodes-1", 2), crl_id("nodes-1.2", 3)) == ("nodes-1.2", "nodes-1.2:3")


def crl(number: int, **changes: Any) -> PublishedCrl:
    return replace(PublishedCrl("nodes-1.1", number, NOW, NOW + DAY, 0, b"\x00crl"), **changes)


async def test_places_that_do_not_fit_begin_a_new_shard(stores: Stores) -> None:
    reserved = [await stores.shards.reserve("nodes-1", 2, 5) for _ in range(4)]
    assert reserved == ["nodes-1.1", "nodes-1.1", "nodes-1.2", "nodes-1.2"]
    assert await stores.shards.reserve("services-1", 2, 5) == "services-1.1"
    second = replace(SHARD, id="nodes-1.2")
    services = replace(SHARD, id="services-1.1", authority="services-1")
    assert await stores.shards.all() == [SHARD, second, services]
    assert await stores.shards.find("nodes-1.2") == second
    assert await stores.shards.find("nodes-1.3") is None


async def test_a_shard_ends_with_its_authority(stores: Stores) -> None:
    await adopt(stores)
    await stores.authorities.prepare(replace(NODES_1, id="nodes-2", state="prepared"), entry())
    await stores.authorities.move("nodes-2", "active", "", entry())
    assert await stores.shards.due(NOW, NOW, 10) == ["nodes-1.1", "services-1.1"]
    await stores.authorities.move("nodes-1", "revoked", "", entry())
    assert await stores.shards.due(NOW, NOW, 10) == ["services-1.1"]
    assert await stores.shards.find("nodes-1.1") == replace(SHARD, ended=1)


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, False),
        ({"revision": -1}, True),
        ({"next_publish_at": NOW}, True),
        ({"next_publish_at": NOW + 2 * HOUR}, False),
        ({"next_publish_at": NOW + 3 * HOUR}, True),
    ],
)
async def test_a_list_is_due_as_the_shard_says(stores: Stores, changes: dict[str, Any], due: bool) -> None:
    await stores.shards.reserve("nodes-1", 1, 1)
    written = {"revision": 0, "next_publish_at": NOW + HOUR, **changes}
    await stores.shards.publish(crl(1), **written)
    assert await stores.shards.due(NOW, NOW + 2 * HOUR, 10) == ["nodes-1.1"] * due
    shard = await stores.shards.find("nodes-1.1")
    assert shard is not None
    assert shard.due(NOW, NOW + 2 * HOUR) is due
    assert await stores.shards.due(NOW, NOW + 2 * HOUR, 0) == []


async def test_a_number_is_drawn_above_the_last_and_the_clock(stores: Stores) -> None:
    await stores.shards.reserve("nodes-1", 1, 1)
    drawn = [await stores.shards.draw("nodes-1.1", at, 10) for at in (NOW, NOW, NOW - DAY, NOW + HOUR)]
    numbers = [UNIX_MS, UNIX_MS + 1, UNIX_MS + 2, UNIX_MS + 3_600_000]
    assert drawn == [Draw("nodes-1.1", "nodes-1", number, 0, 0, ()) for number in numbers]
    assert await stores.shards.draw("nodes-1.2", NOW, 10) is None


async def test_expired_certificates_are_left_out_after_one_later_list(stores: Stores) -> None:
    await adopt(stores)
    serials = [await issue(stores, order(number, "service")) for number in (1, 2)]
    for serial in serials:
        await stores.revocation_writes.revoke(serial, 1, NOW, entry())
    shown = tuple(RevokedRow(serial, NOW, 1) for serial in serials)

    async def revoked(limit: int = 10) -> tuple[RevokedRow, ...]:
        draw = await stores.shards.draw("services-1.1", NOW + 3 * DAY, limit)
        assert draw is not None
        assert draw.revision == 2
        return draw.revoked

    assert await revoked() == shown
    assert await revoked(0) == shown[:1]
    for number, this_update, expected in ((1, NOW + DAY, shown), (2, NOW + 2 * DAY, ())):
        await stores.shards.publish(crl(number, shard="services-1.1", this_update=this_update), 2, NOW)
        assert await revoked() == expected


async def test_a_list_is_published_over_a_lower_number_and_a_few_are_kept(stores: Stores) -> None:
    await stores.shards.reserve("nodes-1", 1, 1)
    await stores.shards.reserve("nodes-1", 1, 1)
    await stores.shards.publish(crl(1, shard="nodes-1.2"), 0, NOW)
    assert await stores.shards.published(SHARD) is None
    for number in (2, 3, 5, 7):
        assert await stores.shards.publish(crl(number), number, NOW + number * HOUR)
    for number in (6, 7):
        assert not await stores.shards.publish(crl(number, data=b"other"), 9, NOW)
    shard = await stores.shards.find("nodes-1.1")
    assert shard == replace(SHARD, published_revision=7, published_number=7, next_publish_at=NOW + 7 * HOUR)
    assert await stores.shards.published(shard) == crl(7)
    assert await stores.shards.kept("nodes-1.1") == [crl(7), crl(5), crl(3)]
    assert len(await stores.shards.kept("nodes-1.1")) == CRLS_KEPT
    assert await stores.shards.kept("nodes-1.2") == [crl(1, shard="nodes-1.2")]
