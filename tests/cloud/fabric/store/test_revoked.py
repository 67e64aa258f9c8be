"""`cloud.fabric.store.revoked`: revoked certificates are refused after a restart, before Breakwater answers."""

from datetime import timedelta
from pathlib import Path

from cloud.fabric.peer_records import PeerRecords
from cloud.fabric.store import Stores
from cloud.fabric.store.revoked import ClosedRow
from cloud.mtls.revoked import KEPT_AFTER, RevokedCertificate, RevokedSet
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.store.support import HOUR, NODES, NOW, TENANT
from tests.cloud.fabric.support import World, world_at


def revoked_set(stores: Stores, clock: Clock) -> RevokedSet:
    kept = stores.revoked
    return RevokedSet(load=kept.read_all, forget=kept.forget, now=clock)


async def test_a_restarted_fabric_refuses_at_once(home: Path, databases: Path) -> None:
    clock = Clock()
    entry = RevokedCertificate(f"{0xBAD:040x}", clock() + timedelta(days=7))
    async with world_at(home, databases, clock) as world:
        await world.stores.revoked.add(entry)
        await world.stores.revoked.add(entry)
    async with world_at(home, databases, clock, first=False) as world:
        serials = revoked_set(world.stores, clock)
        checks = PeerRecords(is_revoked=serials.__contains__, nodes=world.stores.nodes)
        assert not await checks.service_revoked(0xBAD)
        await serials.load()
        assert await checks.service_revoked(0xBAD)
        assert not await checks.service_revoked(0x600D)
        assert await world.stores.revoked.read_all() == [entry]


async def test_entries_that_expired_long_ago_are_deleted(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        for number in (1, 2):
            end = clock() + timedelta(days=number)
            await world.stores.revoked.add(RevokedCertificate(f"{number:040x}", end))
        serials = revoked_set(world.stores, clock)
        await serials.load()
        clock.forward(timedelta(days=1) + KEPT_AFTER)
        await serials.prune()
        assert (1 in serials, 2 in serials) == (False, True)
        assert [int(entry.serial, 16) for entry in await world.stores.revoked.read_all()] == [2]


async def test_closed_generations_only_grow(world: World) -> None:
    stores, node = world.stores, NODES[0]
    assert await stores.closed.find(node) is None
    first = ClosedRow(node, TENANT, 2, (4,), "breakwater", NOW)
    assert await stores.closed.add(first)
    assert not await stores.closed.add(ClosedRow(node, TENANT, 1, (), "import", NOW + HOUR))
    assert await stores.closed.find(node) == first
    assert await stores.closed.add(ClosedRow(node, TENANT, 1, (6,), "import", NOW + HOUR))
    row = await stores.closed.find(node)
    assert row == ClosedRow(node, TENANT, 2, (4, 6), "import", NOW + HOUR)
    assert [row.includes(number) for number in range(1, 8)] == [True, True, False, True, False, True, False]


async def test_serial_numbers_are_stored_once(world: World) -> None:
    stores = world.stores
    assert await stores.closed.add_serials(["0a", "0b"], NOW) == 2
    assert await stores.closed.add_serials(["0b", "0c"], NOW) == 1
    assert [await stores.closed.has_serial(serial) for serial in ("0a", "0c", "0d")] == [True, True, False]
