"""`cloud.fabric.issuer_events`: Breakwater's revocations and the CA of its certificate, in memory and in the database."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloud.events.follower import Follower, SnapshotNeeded
from cloud.fabric.issuer_events import IssuerEvents
from cloud.mtls.identity import make_csr
from cloud.mtls.revoked import RevokedSet
from cloud.storage import StorageError
from tests.cloud.breakwater.support import FABRIC, Clock, Issuer, issuer_at, load, new_key
from tests.cloud.events.following import Wire
from tests.cloud.events.support import Producer
from tests.cloud.fabric.support import World


class Following:
    """Fabric's end: the set of revoked certificates, and the CAs that were reported."""

    def __init__(self, world: World, issuer: Issuer) -> None:
        stores = world.stores
        self.issuing: list[str] = []
        self.revoked = RevokedSet(load=stores.revoked.read_all, forget=stores.revoked.forget, now=world.clock)
        self.effects = IssuerEvents(self.revoked, stores.revoked, stores.installation, self.issuing.append)
        self.wire = Wire(cast(Producer, SimpleNamespace(parts=issuer.parts.events)))
        self.follower = Follower(stores.engine, "breakwater", self.wire, self.effects, now=world.clock, entropy=bytes)


@pytest.fixture
async def issuer(home: Path, tmp_path: Path) -> AsyncIterator[Issuer]:
    """A Breakwater of the installation, with a database of its own."""
    database = Path(shutil.copy(home / "breakwater" / "database.sqlite", tmp_path / "issuer.sqlite"))
    async with issuer_at(home, database, Clock()) as running:
        yield running


@pytest.fixture
async def following(world: World, issuer: Issuer) -> Following:
    made = Following(world, issuer)
    await made.follower.load()
    await made.effects.load()
    return made


async def revoked_certificate(issuer: Issuer, name: str) -> int:
    issued = await issuer.issuing.issue_service("fabric", make_csr(new_key()), name, FABRIC)
    serial = load(issued.certificate_chain[0]).serial_number
    await issuer.service_certificates.revoke(FABRIC, serial, "keyCompromise")
    await issuer.parts.events.sequencer.run_once()
    return serial


async def test_a_revocation_counts_and_lasts(world: World, issuer: Issuer, following: Following) -> None:
    first = await revoked_certificate(issuer, "one")
    await following.follower.refresh()
    second = await revoked_certificate(issuer, "two")
    assert second not in following.revoked
    await following.follower.refresh()
    assert first in following.revoked
    assert second in following.revoked
    later = Following(world, issuer)
    await later.effects.load()
    assert first in later.revoked
    assert second in later.revoked


async def test_a_revocation_counts_although_it_cannot_be_stored(
    issuer: Issuer, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    await following.follower.refresh()
    serial = await revoked_certificate(issuer, "one")

    async def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(following.effects, "apply", full)
        with pytest.raises(StorageError):
            await following.follower.refresh()
    assert serial in following.revoked
    await following.follower.refresh()
    assert len(await following.effects._store.read_all()) == 1


async def test_the_ca_of_breakwaters_certificate_is_reported_and_kept(
    world: World, issuer: Issuer, following: Following
) -> None:
    assert await issuer.parts.stores.events.identity("services-1", "ab")
    await issuer.parts.events.sequencer.run_once()
    await following.follower.refresh()
    assert following.issuing == ["ab"]
    later = Following(world, issuer)
    await later.effects.load()
    assert later.issuing == ["ab"]


async def test_what_a_restored_breakwater_has_forgotten_stays_revoked(issuer: Issuer, following: Following) -> None:
    serial = await revoked_certificate(issuer, "one")
    await following.follower.refresh()
    for table in ("outbox", "object"):
        await issuer.engine.run_ddl(f"DELETE FROM event_{table} WHERE subject LIKE 'service_certificate/%'")  # noqa: S608  a constant
    await issuer.engine.run_ddl("UPDATE event_state SET epoch = epoch + 1")
    with pytest.raises(SnapshotNeeded):
        await following.follower.refresh()
    later = await revoked_certificate(issuer, "two")
    await following.follower.refresh()
    assert serial in following.revoked
    assert later in following.revoked
    assert len(await following.effects._store.read_all()) == 2
