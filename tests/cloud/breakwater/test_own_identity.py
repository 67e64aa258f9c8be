"""`cloud.breakwater.own_identity`: Breakwater renews its certificate when its CA changes, and reports the CA."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest

from cloud.breakwater.own_identity import LocalIssuerClient, OwnIdentity
from cloud.contracts.breakwater_events import IdentityV1
from cloud.mtls.identity import load_identity, make_csr
from cloud.mtls.peer import key_id_of
from cloud.storage import Location, StorageError
from cloud.tasks.stopping import Stopping
from tests.cloud.breakwater.generations import next_authority
from tests.cloud.breakwater.support import FABRIC, Clock, Issuer, issuer_at, load, new_key
from tests.cloud.mtls.stopping import StopAfter
from tests.waiting import until


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Path:
    """A copy of the files, because a renewal changes them."""
    return Path(shutil.copytree(home, tmp_path / "home"))


@pytest.fixture
async def issuer(place: Path, database: Location) -> AsyncIterator[Issuer]:
    async with issuer_at(place, database, Clock()) as running:
        yield running


def own_at(place: Path, issuer: Issuer) -> OwnIdentity:
    folder = place / "breakwater" / "tls"
    return OwnIdentity(
        load_identity(folder, place / "passphrase"),
        folder,
        place / "passphrase",
        issuing=issuer.issuing,
        authorities=issuer.authorities,
        event_store=issuer.parts.stores.events,
        now=issuer.clock,
    )


@asynccontextmanager
async def publishing(own: OwnIdentity) -> AsyncIterator[None]:
    """Run the background task that publishes the CA."""
    stopping = Stopping()
    task = asyncio.create_task(own.publish_issuer(stopping))
    try:
        yield
    finally:
        stopping.request()
        await task


async def reported(issuer: Issuer) -> list[tuple[str, str]]:
    """The CAs and their key ids that Breakwater has published, in order."""
    await issuer.parts.events.sequencer.run_once()
    answer = await issuer.parts.events.change_feed.after("", 0)
    bodies = [msgspec.json.decode(each.data, type=IdentityV1) for each in answer.events if "identity" in each.type]
    return [(body.authority, body.issuer) for body in bodies]


async def test_it_asks_its_own_issuer_by_the_way_of_all_services(issuer: Issuer) -> None:
    client = LocalIssuerClient(issuer.issuing, issuer.authorities.ca_certificates)
    csr = make_csr(new_key())
    leaf = await client.reenroll(csr, "r1")
    assert await client.reenroll(csr, "r1") == leaf
    (row,) = [row for row in await issuer.records() if int(row["serial"], 16) == load(leaf).serial_number]
    assert (row["service"], row["caller"], row["state"]) == ("breakwater", "service/breakwater", "issued")
    assert await client.ca_certificates() == issuer.authorities.ca_certificates()


async def test_another_services_ca_has_it_renewed_and_reported(place: Path, issuer: Issuer) -> None:
    own = own_at(place, issuer)
    cas = {row.id: load(row.certificate) for row in issuer.authorities.rows()}
    first = ("services-1", key_id_of(cas["services-1"]))
    async with publishing(own):
        await until("the first report", partial(reported, issuer))
        assert await reported(issuer) == [first]
        assert not own.renewal._wanted.is_set()
        await issuer.authorities.activate(FABRIC, await next_authority(place, issuer, "services"))
        assert own.renewal._wanted.is_set()
        await until("the look at the certificate", lambda: not own._changed.is_set())
        assert await reported(issuer) == [first]
        await own.renewal.renew()
        fresh = {row.id: load(row.certificate) for row in issuer.authorities.rows()}["services-2"]

        async def second() -> bool:
            return await reported(issuer) == [first, ("services-2", key_id_of(fresh))]

        await until("the second report", second)
        own.renewal.identity.leaf.verify_directly_issued_by(fresh)


async def test_a_replica_with_the_certificate_before_reports_nothing(place: Path, issuer: Issuer) -> None:
    """And what one replica has reported, the other does not report again."""
    late = own_at(place, issuer)
    await issuer.authorities.activate(FABRIC, await next_authority(place, issuer, "services"))
    early = own_at(place, issuer)
    await early.renewal.renew()
    for own in (late, early, early, late):
        await own._publish()
    assert [authority for authority, _ in await reported(issuer)] == ["services-2"]


async def test_a_database_that_is_away_delays_the_report(
    place: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.breakwater.own_identity.RETRY_SECONDS", 0.01)
    own, tries = own_at(place, issuer), 0

    async def away(_authority: str, _key_id: str) -> bool:
        nonlocal tries
        tries += 1
        raise StorageError("away")

    with monkeypatch.context() as patched:
        patched.setattr(issuer.parts.stores.events, "identity", away)
        async with publishing(own):
            await until("two tries", lambda: tries >= 2)
            patched.undo()
            await until("the report", partial(reported, issuer))


async def test_nothing_is_reported_while_its_ca_is_not_trusted(place: Path, issuer: Issuer) -> None:
    own = own_at(place, issuer)
    await issuer.authorities.activate(FABRIC, await next_authority(place, issuer, "services"))
    await issuer.authorities.taint(FABRIC, "services-1", "the key was stolen")
    await own._publish()
    assert await reported(issuer) == []


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=365)])
async def test_a_certificate_from_the_future_is_replaced(place: Path, issuer: Issuer, ahead: timedelta) -> None:
    own = own_at(place, issuer)
    issuer.clock.forward(ahead)
    await own.renewal.renew()
    issuer.clock.forward(-ahead)
    assert own.renewal.identity.outside(issuer.clock()).startswith("is not valid before")
    await own.renewal.run(StopAfter(1))
    assert own.renewal.identity.outside(issuer.clock()) == ""
    assert load_identity(place / "breakwater" / "tls", place / "passphrase").leaf == own.renewal.identity.leaf
