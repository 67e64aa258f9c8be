"""`cloud.fabric.store.revoked`, under Fabric's set: what was heard is there after a restart, before anything is asked."""

from datetime import timedelta
from pathlib import Path

from cloud.contracts.breakwater import RevokedSerial
from cloud.fabric import store
from cloud.fabric.app import Checks
from cloud.mtls.revoked import RevokedSet
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.support import world_at


def revoked_set(clock: Clock) -> RevokedSet:
    kept = store.revoked
    return RevokedSet(load=kept.read_all, save=kept.add, forget=kept.forget, now=clock, entropy=bytes)


async def test_a_restarted_fabric_refuses_at_once(home: Path, databases: Path) -> None:
    clock = Clock()
    entry = RevokedSerial(3, f"{0xBAD:040x}", clock() + timedelta(days=7))
    async with world_at(home, databases, clock):
        await store.revoked.add([entry])
        await store.revoked.add([entry])
    async with world_at(home, databases, clock, first=False):
        serials = revoked_set(clock)
        checks = Checks(serials)
        assert not await checks.service_revoked(0xBAD)
        await serials.load()
        assert await checks.service_revoked(0xBAD)
        assert not await checks.service_revoked(0x600D)
        assert await store.revoked.read_all() == [entry]


async def test_what_has_expired_is_forgotten(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock):
        await store.revoked.add([RevokedSerial(1, "0" * 39 + "1", clock() + timedelta(days=1))])
        await store.revoked.add([RevokedSerial(2, "0" * 39 + "2", clock() + timedelta(days=2))])
        serials = revoked_set(clock)
        await serials.load()
        clock.forward(timedelta(days=1))
        await serials.prune()
        assert (1 in serials, 2 in serials) == (False, True)
        assert [entry.feed for entry in await store.revoked.read_all()] == [2]
