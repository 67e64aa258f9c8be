"""`cloud.breakwater.checks.checker`: no findings in a clean database, and one check for each kind of damage."""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from cloud.breakwater.ceremony.signing import CaIdentity, make_root
from cloud.breakwater.checks.checker import FINDINGS_MAX, Checker, Report
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.pkix.linted import assemble
from cloud.breakwater.pkix.profiles import build
from cloud.breakwater.pkix.reread import reread
from cloud.breakwater.revocation.crl_publisher import CrlPublisher
from cloud.breakwater.settings import CrlSettings
from cloud.breakwater.store.checker_reads import CheckerStore, ShardView
from cloud.breakwater.store.root_crls import RootCrlRow, RootCrlStore
from cloud.breakwater.store.shards import ShardStore
from cloud.crypto.keyfile import read_key
from cloud.mtls.identity import make_csr
from cloud.storage import Location, Statement
from lab.postgres import postgres_copy
from protocol.encoding import sha256_hex
from tests.cloud.breakwater.generations import serial as new_serial
from tests.cloud.breakwater.support import (
    FABRIC,
    PASSPHRASE,
    PKI_URL,
    START,
    TRUST_DOMAIN,
    Clock,
    Issuer,
    ask,
    closing,
    issuer_at,
    load,
    new_key,
    opening,
)
from tests.cloud.engines import ENGINES

pytestmark = pytest.mark.slow

MINUTES = timedelta(minutes=5)
NODES, SERVICES = "nodes-1.1", "services-1.1"
_DEVICE = Statement("SELECT serial, certificate FROM certificate WHERE profile = 'device' AND state = 'issued'")
_SERVICE = Statement("SELECT serial, certificate FROM certificate WHERE profile = 'service' AND state = 'revoked'")
_SERVING = Statement("SELECT serial FROM certificate WHERE profile = 'service' AND state = 'issued'")

Found = set[tuple[str, str]]


@dataclass
class Bed:
    """A database with every kind of record. The generation of `device` is open; `service` is revoked."""

    home: Path
    issuer: Issuer
    publisher: CrlPublisher
    clock: Clock
    device: str
    device_der: bytes
    service: str

    async def run(self, sql: str, **values: object) -> None:
        await self.issuer.engine.fetch(Statement(sql), **values)

    async def spoil(self, spoilt: str, change: str, **values: object) -> None:
        sql = f"UPDATE certificate SET {change} WHERE serial = {{spoilt}}"  # noqa: S608  this test passes constants
        await self.run(sql, spoilt=spoilt, **values)

    async def report(self, sample: int = 0, others: tuple[tuple[str, bytes], ...] = ()) -> Report:
        rows = await self.issuer.parts.stores.authorities.rows()
        store = CheckerStore(self.issuer.engine)
        crls = await self.root_crls()
        checker = Checker(store, rows, self.clock, root_crls=crls, sample=sample, choose=random.Random(1))
        return await checker.run(others)

    async def root_crls(self) -> list[RootCrlRow]:
        found = await RootCrlStore(self.issuer.engine).newest("root-1")
        return [found] if found else []

    async def found(self) -> Found:
        return {(finding.check, finding.object) for finding in (await self.report()).findings}

    def key(self, name: str) -> LocalKey:
        key = read_key(self.home / "breakwater" / "keys" / f"{name}-ca.key.pem", PASSPHRASE)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return LocalKey(key)

    async def publish(self, shard: str) -> None:
        await self.run("UPDATE shard SET revision = revision + 1 WHERE id = {id}", id=shard)
        assert await self.publisher.publish(shard)

    async def serving(self) -> set[str]:
        return {str(row["serial"]) for row in await self.issuer.engine.fetch(_SERVING)}


async def _fill(issuer: Issuer, publisher: CrlPublisher, clock: Clock) -> None:
    issuing = issuer.issuing
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
        key = new_key()
        await issuing.issue_device(FABRIC, ask(key, request=f"d{generation}", generation=generation))
        await issuing.issue_session(FABRIC, ask(key, request=f"s{generation}", generation=generation))
    await issuing.issue_responder("nodes-1", new_key().public_key())
    made = await issuing.issue_service("fabric", make_csr(new_key()), "more", FABRIC)
    assert await publisher.run_once() == 2
    await issuer.generations.close_up_to(FABRIC, closing(1))
    await issuer.service_certificates.revoke(
        "operator/test", load(made.certificate_chain[0]).serial_number, "superseded"
    )
    clock.forward(MINUTES)
    assert await publisher.run_once() == 2


def _publisher(issuer: Issuer, clock: Clock) -> CrlPublisher:
    return CrlPublisher(ShardStore(issuer.engine), issuer.authorities, issuer.signer, PKI_URL, CrlSettings(), clock)


@pytest.fixture(scope="module")
def filled(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean database. Each test damages a copy of it."""
    path = Path(shutil.copy(home / "breakwater" / "database.sqlite", tmp_path_factory.mktemp("checked")))

    async def fill() -> None:
        clock = Clock()
        async with issuer_at(home, path, clock) as issuer:
            await _fill(issuer, _publisher(issuer, clock), clock)

    asyncio.run(fill())
    return path


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, filled: Path, tmp_path: Path) -> Location:
    if request.param == "postgresql":
        return postgres_copy("breakwater", filled)
    return Path(shutil.copy(filled, tmp_path / "database.sqlite"))


@asynccontextmanager
async def _bed_at(home: Path, location: Location) -> AsyncIterator[Bed]:
    clock = Clock(START + 2 * MINUTES)
    async with issuer_at(home, location, clock) as issuer:
        (device,) = await issuer.engine.fetch(_DEVICE)
        (service,) = await issuer.engine.fetch(_SERVICE)
        publisher = _publisher(issuer, clock)
        der = bytes(device["certificate"])
        yield Bed(home, issuer, publisher, clock, str(device["serial"]), der, str(service["serial"]))


@pytest.fixture
async def bed(home: Path, location: Location) -> AsyncIterator[Bed]:
    async with _bed_at(home, location) as made:
        yield made


async def test_a_clean_database_is_clean(bed: Bed) -> None:
    report = await bed.report(sample=100, others=(("a device", bed.device_der),))
    assert report.clean, report.findings
    assert (report.certificates, report.crls, report.pkilint_certificates) == (8, 2, 8)
    assert (report.errors, report.warnings) == (0, 0)
    assert set(report.waived) == {
        "pkix.invalid_uri_syntax",
        "pkix.invalid_domain_name_syntax",
    }


Damage = Callable[[Bed], Awaitable[Found]]
DAMAGES: list[Damage] = []


def damage(spoil: Damage) -> Damage:
    """Register a function that damages one thing and returns exactly the expected findings."""
    DAMAGES.append(spoil)
    return spoil


@pytest.mark.parametrize("spoil", DAMAGES, ids=lambda spoil: spoil.__name__)
async def test_each_damage_is_found_and_nothing_else(bed: Bed, spoil: Damage) -> None:
    expected = await spoil(bed)
    assert await bed.found() == expected


# Records


@damage
async def orphan_left(bed: Bed) -> Found:
    await bed.spoil(bed.device, "state = 'recorded', certificate = NULL")
    return {("record.orphan", bed.device)}


@damage
async def a_record_at_the_signer(bed: Bed) -> Found:
    await bed.spoil(
        bed.device, "state = 'recorded', certificate = NULL, recorded_at = {recorded_at}", recorded_at=bed.clock()
    )
    return set()


@damage
async def empty_record(bed: Bed) -> Found:
    await bed.spoil(bed.device, "certificate = NULL")
    return {("record.empty", bed.device)}


@damage
async def signed_orphan(bed: Bed) -> Found:
    await bed.spoil(bed.device, "state = 'orphaned', revoked_at = {revoked_at}", revoked_at=bed.clock())
    await bed.publish(NODES)
    return {("record.signed_orphan", bed.device)}


@damage
async def other_bytes(bed: Bed) -> Found:
    await bed.spoil(bed.device, "tbs = {tbs}", tbs=b"other bytes")
    return {("record.bytes", bed.device)}


@damage
async def other_serial(bed: Bed) -> Found:
    other = f"{new_serial():040x}"
    await bed.spoil(bed.device, "serial = {serial}", serial=other)
    return {("record.serial", other)}


@damage
async def other_key(bed: Bed) -> Found:
    await bed.spoil(bed.device, "spki_sha256 = {spki_sha256}", spki_sha256="0" * 64)
    return {("record.key", bed.device)}


@damage
async def other_dates(bed: Bed) -> Found:
    await bed.spoil(bed.device, "not_after = {not_after}", not_after=START + timedelta(days=89))
    return {("record.dates", bed.device)}


@damage
async def other_shard(bed: Bed) -> Found:
    await bed.spoil(bed.device, "shard = {shard}", shard=SERVICES)
    return {("record.shard", bed.device)}


@damage
async def no_shard(bed: Bed) -> Found:
    await bed.spoil(bed.device, "shard = ''")
    return {("record.shard", bed.device)}


@damage
async def shard_lost(bed: Bed) -> Found:
    await bed.run("DELETE FROM shard WHERE id = {id}", id=NODES)
    return {("shard.missing", NODES)}


# Chains and lint


@damage
async def unknown_authority(bed: Bed) -> Found:
    await bed.spoil(bed.device, "authority = 'nodes-9'")
    return {("chain.authority", bed.device)}


@damage
async def signed_by_another(bed: Bed) -> Found:
    tbs = load(bed.device_der).tbs_certificate_bytes
    forged = assemble(tbs, "secp256r1", await bed.key("services").sign(tbs))
    await bed.spoil(bed.device, "certificate = {certificate}", certificate=forged)
    return {("chain.signature", bed.device)}


@damage
async def certificate_unreadable(bed: Bed) -> Found:
    await bed.spoil(bed.device, "certificate = {certificate}", certificate=b"no certificate")
    return {("chain.signature", bed.device)}


@damage
async def outside_the_profile(bed: Bed) -> Found:
    wanted = reread(load(bed.device_der), "device", 2)
    issuer = bed.issuer.authorities.find("nodes-1")
    assert issuer is not None
    end = START + timedelta(days=1200)
    long = type(wanted)(**{**{name: getattr(wanted, name) for name in wanted.__struct_fields__}, "not_after": end})
    tbs = build(long, issuer)
    der = assemble(tbs, "secp256r1", await bed.key("nodes").sign(tbs))
    await bed.spoil(
        bed.device,
        "tbs = {tbs}, certificate = {certificate}, not_after = {not_after}",
        tbs=tbs,
        certificate=der,
        not_after=end,
    )
    return {("lint.validity_life", bed.device)}


@damage
async def another_version_of_the_profile(bed: Bed) -> Found:
    await bed.spoil(bed.device, "profile_version = 7")
    return {("lint.profile_version", bed.device)}


# Revocation


@damage
async def closed_and_not_revoked(bed: Bed) -> Found:
    await bed.run("UPDATE closing SET closed_up_to = 2")
    return {("generation.closed", bed.device)}


@damage
async def closed_alone_and_not_revoked(bed: Bed) -> Found:
    await bed.run("UPDATE generation SET closed_at = {closed_at} WHERE generation = 2", closed_at=bed.clock())
    return {("generation.closed", bed.device)}


@damage
async def revoked_at_no_time(bed: Bed) -> Found:
    await bed.spoil(bed.service, "revoked_at = NULL")
    return {("revocation.undated", bed.service)}


@damage
async def revoked_without_an_event(bed: Bed) -> Found:
    await bed.run("DELETE FROM event_object WHERE subject = {subject}", subject=f"service_certificate/{bed.service}")
    return {("revocation.no_event", bed.service)}


# CRLs


@damage
async def revoked_and_not_named(bed: Bed) -> Found:
    await bed.spoil(bed.device, "state = 'revoked', revoked_at = {revoked_at}", revoked_at=bed.clock())
    return {("crl.omits", bed.device)}


@damage
async def revoked_long_ago_and_not_published(bed: Bed) -> Found:
    await bed.spoil(bed.device, "state = 'revoked', revoked_at = {revoked_at}", revoked_at=START)
    await bed.run("UPDATE shard SET revision = revision + 1 WHERE id = {id}", id=NODES)
    return {("crl.omits", bed.device)}


@damage
async def revoked_just_now(bed: Bed) -> Found:
    await bed.spoil(bed.device, "state = 'revoked', revoked_at = {revoked_at}", revoked_at=bed.clock())
    await bed.run("UPDATE shard SET revision = revision + 1 WHERE id = {id}", id=NODES)
    return set()


@damage
async def named_and_not_revoked(bed: Bed) -> Found:
    await bed.spoil(bed.service, "state = 'issued'")
    return {("crl.extra", bed.service)}


@damage
async def a_serial_left_before_its_end(bed: Bed) -> Found:
    await bed.spoil(bed.service, "state = 'issued'")
    await bed.publish(SERVICES)
    return {("crl.continuity", bed.service)}


@damage
async def the_time_of_lists_fell(bed: Bed) -> Found:
    bed.clock.forward(-3 * MINUTES)
    await bed.publish(SERVICES)
    bed.clock.forward(3 * MINUTES)
    return {("crl.continuity", SERVICES)}


@damage
async def list_not_renewed(bed: Bed) -> Found:
    bed.clock.forward(timedelta(days=8))
    return {("crl.stale", NODES), ("crl.stale", SERVICES)}


@damage
async def other_number(bed: Bed) -> Found:
    await bed.run("UPDATE shard SET published_number = published_number + 1, crl_number = crl_number + 1")
    return {("crl.number", NODES), ("crl.number", SERVICES)}


@damage
async def number_drawn_fell(bed: Bed) -> Found:
    await bed.run("UPDATE shard SET crl_number = 1 WHERE id = {id}", id=NODES)
    return {("crl.number", NODES)}


@damage
async def other_number_inside(bed: Bed) -> Found:
    await bed.run("UPDATE crl SET number = number + 1 WHERE shard = {shard}", shard=NODES)
    await bed.run(
        "UPDATE shard SET published_number = published_number + 1, crl_number = crl_number + 1 WHERE id = {id}",
        id=NODES,
    )
    return {("crl.number", NODES)}


@damage
async def other_dates_of_a_list(bed: Bed) -> Found:
    await bed.run(
        "UPDATE crl SET next_update = {next_update} WHERE shard = {shard}",
        next_update=START + timedelta(days=30),
        shard=NODES,
    )
    return {("crl.dates", NODES)}


@damage
async def other_count_of_a_list(bed: Bed) -> Found:
    await bed.run("UPDATE crl SET entries = entries + 1 WHERE shard = {shard}", shard=NODES)
    return {("crl.size", NODES)}


@damage
async def list_signed_by_another(bed: Bed) -> Found:
    (row,) = await bed.issuer.engine.fetch(
        Statement("SELECT id, data FROM crl WHERE shard = {shard} ORDER BY number DESC LIMIT 1"), shard=NODES
    )
    tbs = x509.load_der_x509_crl(bytes(row["data"])).tbs_certlist_bytes
    forged = assemble(tbs, "secp256r1", await bed.key("services").sign(tbs))
    await bed.run("UPDATE crl SET data = {data} WHERE id = {id}", data=forged, id=row["id"])
    return {("crl.signature", NODES)}


@damage
async def list_unreadable(bed: Bed) -> Found:
    await bed.run("UPDATE crl SET data = {data} WHERE shard = {shard}", data=b"no list", shard=NODES)
    return {("crl.unreadable", NODES)}


@damage
async def never_published(bed: Bed) -> Found:
    await bed.run("DELETE FROM crl WHERE shard = {shard}", shard=NODES)
    return {("crl.missing", NODES)}


@damage
async def list_of_an_unknown_authority(bed: Bed) -> Found:
    await bed.run("UPDATE shard SET authority = 'nodes-9' WHERE id = {id}", id=NODES)
    return {("crl.authority", NODES)}


@damage
async def too_many_places(bed: Bed) -> Found:
    await bed.run("UPDATE shard SET reserved = 5500 WHERE id = {id}", id=NODES)
    return {("shard.size", NODES)}


@damage
async def places_not_reserved(bed: Bed) -> Found:
    await bed.run("UPDATE shard SET reserved = 1 WHERE id = {id}", id=NODES)
    return {("shard.places", NODES)}


# Authorities and ends


@damage
async def no_root_signed_them(bed: Bed) -> Found:
    key = LocalKey(ec.generate_private_key(ec.SECP384R1()))
    other = await make_root(CaIdentity(TRUST_DOMAIN, "root", 1), key, new_serial(), START)
    await bed.run(
        "UPDATE authority SET certificate = {certificate} WHERE id = 'root-1'", certificate=other.certificate_der
    )
    return {("authority.chain", "nodes-1"), ("authority.chain", "services-1"), ("crl.signature", "root-1")}


@damage
async def the_root_has_no_crl(bed: Bed) -> Found:
    await bed.run("DELETE FROM root_crl")
    return {("crl.root_missing", "root-1")}


@damage
async def none_is_active(bed: Bed) -> Found:
    await bed.run("UPDATE authority SET state = 'old' WHERE id = 'nodes-1'")
    return {("authority.active", "nodes")}


@damage
async def not_a_certificate(bed: Bed) -> Found:
    await bed.run(
        "INSERT INTO authority (id, ca, number, state, certificate, key, changed_at, reason) "
        "VALUES ('nodes-2', 'nodes', 2, 'prepared', {certificate}, '', {changed_at}, '')",
        certificate=b"no certificate",
        changed_at=START,
    )
    return {("authority.unreadable", "nodes-2")}


@damage
async def two_of_one_name_and_key(bed: Bed) -> Found:
    issuer = bed.issuer.authorities.find("nodes-1")
    assert issuer is not None
    await bed.run(
        "INSERT INTO authority (id, ca, number, state, certificate, key, changed_at, reason) "
        "VALUES ('nodes-2', 'nodes', 2, 'prepared', {certificate}, '', {changed_at}, '')",
        certificate=issuer.certificate_der,
        changed_at=START,
    )
    return {("authority.distinct", issuer.subject.rfc4514_string()), ("authority.distinct", issuer.key_id.hex())}


@damage
async def services_end_soon(bed: Bed) -> Found:
    bed.clock.forward(timedelta(days=6))
    return {("certificate.expiring", serial) for serial in await bed.serving()}


@damage
async def authorities_end_soon(bed: Bed) -> Found:
    bed.clock.at = START + timedelta(days=3600)
    stale = {("crl.stale", NODES), ("crl.stale", SERVICES), ("crl.stale", "root-1")}
    return stale | {("authority.expiring", "nodes-1"), ("authority.expiring", "services-1")}


async def test_what_begins_in_the_future_is_found(bed: Bed) -> None:
    """The clock was a year ahead when the CAs and certificates were made."""
    issued = {str(row["serial"]) for row in await bed.issuer.records() if row["state"] == "issued"}
    bed.clock.at = START - timedelta(days=365)
    report = await bed.report()
    found = {(finding.check, finding.object, finding.severity) for finding in report.findings}
    cas = {("authority.future", name, "error") for name in ("nodes-1", "root-1", "services-1")}
    leaves = {("certificate.future", serial, "warning") for serial in issued}
    assert found == cas | leaves
    assert len(leaves) >= 3


async def test_certificates_that_expire_soon_are_warnings(bed: Bed) -> None:
    bed.clock.forward(timedelta(days=6))
    report = await bed.report()
    assert (report.errors, report.warnings) == (0, len(await bed.serving()))
    assert not report.clean


async def test_a_retired_authority_need_not_renew_its_lists(bed: Bed) -> None:
    await bed.run("UPDATE authority SET state = 'revoked' WHERE id = 'nodes-1'")
    bed.clock.forward(timedelta(days=8))
    assert await bed.found() == {
        ("crl.stale", SERVICES),
        ("authority.active", "nodes"),
        ("crl.root_omits", "nodes-1"),
    }


async def test_certificates_from_outside_must_be_on_record(bed: Bed) -> None:
    await bed.run("DELETE FROM certificate WHERE serial = {serial}", serial=bed.device)
    report = await bed.report(others=(("found.pem", bed.device_der), ("garbage.pem", b"garbage")))
    assert {(finding.check, finding.object) for finding in report.findings} == {
        ("certificate.unrecorded", "found.pem"),
        ("certificate.unreadable", "garbage.pem"),
    }


async def test_pkilint_reports_violations_of_rfc_5280(bed: Bed) -> None:
    issuer = bed.issuer.authorities.find("nodes-1")
    assert issuer is not None
    key, number = new_key(), new_serial()
    public = key.public_key()
    bare = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "de")]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(number)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=90))
        .add_extension(x509.SubjectKeyIdentifier(b"\x01"), critical=True)
        .sign(bed.key("nodes")._private_key, hashes.SHA256())
    )
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    await bed.spoil(
        bed.device,
        "serial = {serial}, tbs = {tbs}, certificate = {certificate}, spki_sha256 = {spki_sha256}, "
        "not_before = {not_before}, not_after = {not_after}",
        serial=f"{number:040x}",
        tbs=bare.tbs_certificate_bytes,
        certificate=bare.public_bytes(Encoding.DER),
        spki_sha256=sha256_hex(spki),
        not_before=bare.not_valid_before_utc,
        not_after=bare.not_valid_after_utc,
    )
    report = await bed.report(sample=100)
    assert {finding.object for finding in report.findings} == {f"{number:040x}"}
    assert "pkilint" in report.counts
    assert any(name.startswith("lint.") for name in report.counts)


async def test_the_sample_is_as_large_as_asked_and_fair(bed: Bed) -> None:
    report = await bed.report(sample=3)
    assert (report.clean, report.pkilint_certificates) == (True, 3)


async def test_a_shard_that_changes_during_every_read_is_reported(bed: Bed) -> None:
    class Restless(CheckerStore):
        async def view(self, identifier: str) -> ShardView | None:
            return None

    rows = await bed.issuer.parts.stores.authorities.rows()
    report = await Checker(Restless(bed.issuer.engine), rows, bed.clock, root_crls=await bed.root_crls()).run()
    assert report.counts == {"crl.unsettled": 2}
    assert (report.errors, report.warnings) == (0, 2)


async def test_a_view_is_of_one_moment(bed: Bed) -> None:
    view = await CheckerStore(bed.issuer.engine).view(NODES)
    assert view is not None
    assert [crl.number for crl in view.crls] == sorted((crl.number for crl in view.crls), reverse=True)
    assert view.crls[0].number == view.shard.published_number
    assert await CheckerStore(bed.issuer.engine).view("nodes-1.9") is None


async def test_findings_beyond_the_bound_are_counted(bed: Bed) -> None:
    others = tuple((f"{number}.pem", b"garbage") for number in range(FINDINGS_MAX + 5))
    report = await bed.report(others=others)
    assert len(report.findings) == FINDINGS_MAX
    assert report.counts == {"certificate.unreadable": FINDINGS_MAX + 5}
    assert report.errors == FINDINGS_MAX + 5


async def test_progress_is_reported(bed: Bed) -> None:
    reported: list[tuple[str, int, int]] = []
    rows = await bed.issuer.parts.stores.authorities.rows()
    store = CheckerStore(bed.issuer.engine)
    crls = await bed.root_crls()
    await Checker(store, rows, bed.clock, root_crls=crls, sample=1, progress=lambda *step: reported.append(step)).run()
    assert reported == [("certificates", 8, 8), ("CRLs", 2, 2), ("pkilint", 1, 1)]


async def test_the_purge_leaves_a_clean_database(bed: Bed) -> None:
    """Records are deleted as if all certificates had ended long ago, also those that were replaced by a renewal."""
    await bed.issuer.generations.open(FABRIC, opening(3))
    key = new_key()
    for name in ("first", "second"):
        await bed.issuer.issuing.issue_device(FABRIC, ask(key, request=name, generation=3))
        bed.clock.forward(MINUTES)
    before, revoked = await bed.found(), await bed.serving()
    step = await bed.issuer.parts.stores.retention.step("", bed.clock() + timedelta(days=10_000))
    profiles = Counter(str(row["profile"]) for row in await bed.issuer.records())
    assert step.deleted == 4
    assert (profiles["session"], profiles["responder"], profiles["device"]) == (0, 0, 3)
    assert await bed.found() == before == set()
    assert await bed.serving() == revoked
