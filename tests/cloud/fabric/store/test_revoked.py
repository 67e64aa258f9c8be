"""`cloud.fabric.store.revoked`: revoked certificates are refused after a restart, before the feed is read."""

from datetime import timedelta
from pathlib import Path

from cloud.contracts.breakwater import RevokedSerial
from cloud.fabric.peer_records import PeerRecords
from cloud.fabric.store import Stores
from cloud.mtls.revoked import RevokedSet
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.support import world_at


def revoked_set(stores: Stores, clock: Clock) -> RevokedSet:
    kept = stores.revoked
    return RevokedSet(load=kept.read_all, save=kept.add, forget=kept.forget, now=clock, entropy=bytes)


async def test_a_restarted_fabric_refuses_at_once(home: Path, databases: Path) -> None:
    clock = Clock()
    entry = RevokedSerial(3, f"{0xBAD:040x}", clock() + timedelta(days=7))
    async with world_at(home, databases, clock) as world:
        await world.stores.revoked.add([entry])
        await world.stores.revoked.add([entry])
    async with world_at(home, databases, clock, first=False) as world:
        serials = revoked_set(world.stores, clock)
        checks = PeerRecords(is_revoked=serials.__contains__, nodes=world.stores.nodes)
        assert not await checks.service_revoked(0xBAD)
        await serials.load()
        assert await checks.service_revoked(0xBAD)
        assert not await checks.service_revoked(0x600D)
        assert await world.stores.revoked.read_all() == [entry]


async def test_expired_entries_are_deleted(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        await world.stores.revoked.add([RevokedSerial(1, "0" * 39 + "1", clock() + timedelta(days=1))])
        await world.stores.revoked.add([RevokedSerial(2, "0" * 39 + "2", clock() + timedelta(days=2))])
        serials = revoked_set(world.stores, clock)
        await serials.load()
        clock.forward(timedelta(days=1))
        await serials.prune()
        assert (1 in serials, 2 in serials) == (False, True)
        assert [entry.feed for entry in await world.stores.revoked.read_all()] == [2]
