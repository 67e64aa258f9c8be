"""`cloud.breakwater.own_identity`: Breakwater renews its certificate when its CA changes, and reports the CA."""

import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.breakwater.own_identity import LocalIssuerClient, OwnIdentity
from cloud.contracts.breakwater import Revocations
from cloud.mtls.identity import load_identity, make_csr
from cloud.mtls.peer import key_id_of
from cloud.storage import Location
from tests.cloud.breakwater.generations import next_authority
from tests.cloud.breakwater.support import FABRIC, Clock, Issuer, issuer_at, load, new_key
from tests.cloud.mtls.stopping import StopAfter


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
        feed=issuer.parts.feed,
        now=issuer.clock,
    )


async def reported(issuer: Issuer) -> str:
    answer = await issuer.parts.feed.after(0, 0)
    assert isinstance(answer, Revocations)
    return answer.issuer


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
    assert await reported(issuer) == key_id_of(cas["services-1"])
    assert not own.renewal._wanted.is_set()
    await issuer.authorities.activate(FABRIC, await next_authority(place, issuer, "services"))
    assert own.renewal._wanted.is_set()
    assert await reported(issuer) == key_id_of(cas["services-1"])
    await own.renewal.renew()
    fresh = {row.id: load(row.certificate) for row in issuer.authorities.rows()}["services-2"]
    assert await reported(issuer) == key_id_of(fresh)
    own.renewal.identity.leaf.verify_directly_issued_by(fresh)


async def test_nothing_is_reported_while_its_ca_is_not_trusted(place: Path, issuer: Issuer) -> None:
    own_at(place, issuer)
    await issuer.authorities.activate(FABRIC, await next_authority(place, issuer, "services"))
    await issuer.authorities.taint(FABRIC, "services-1", "the key was stolen")
    assert await reported(issuer) == ""


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
