"""Checks of the issuer walk after every start. They compare answers, database rows and signatures of the CA keys.

Every signature has a durable record. Every serial and every request has one certificate. CRL numbers only rise. Every
revoked serial is in the CRL of its shard. Every certificate of a closed generation is revoked.
"""

import asyncio
from collections.abc import Iterable

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.checks.checker import Checker
from cloud.breakwater.revocation.crl_shards import crl_path
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.breakwater.store.checker_reads import CheckedRecord, CheckerStore
from cloud.breakwater.store.root_crls import RootCrlStore
from cloud.clock import utc_now
from cloud.storage import ServiceEngine, Statement
from tests.cloud.breakwater.support import stores_of
from tests.system.support.issuer_walk.site import Replica, Site
from tests.system.support.witness import Signature, is_certificate, signatures

Crl = x509.CertificateRevocationList
_SHARDS = Statement("SELECT id, authority, crl_number FROM shard ORDER BY id LIMIT 1000")


class Shard(msgspec.Struct, frozen=True):
    """A CRL shard, and the highest CRL number that was drawn for it."""

    id: str
    authority: str
    crl_number: int


def check(site: Site, at: Replica) -> None:
    """Run all checks against `at`. Raises AssertionError, or Interrupted when `at` does not answer."""
    asyncio.run(_check(site, at))


def serials_of(site: Site) -> set[str]:
    """The serials of all records."""
    return {record.serial for record in asyncio.run(_records_at(site))}


async def _records_at(site: Site) -> list[CheckedRecord]:
    engine = ServiceEngine("breakwater")
    engine.configure(site.location)
    await engine.open()
    try:
        return await _records(CheckerStore(engine))
    finally:
        await engine.close()


async def _check(site: Site, at: Replica) -> None:
    engine = ServiceEngine("breakwater")
    engine.configure(site.location)
    await engine.open()
    try:
        store = CheckerStore(engine)
        authorities = await stores_of(engine).authorities.rows()
        shards = await _drawn(engine)
        records = {record.serial: record for record in await _records(store)}
        # The records are read before the CRLs. So each CRL has at least the serials that were revoked in the records.
        _shards(site, at, shards, authorities, records.values())
        others = list(site.memory.certificates.items())
        crls = [await RootCrlStore(engine).newest(row.id) for row in authorities if row.ca == "root"]
        checker = Checker(store, authorities, utc_now, root_crls=[crl for crl in crls if crl is not None])
        report = await checker.run(others)
        assert [finding for finding in report.findings if finding.severity == "error"] == []
        # The signatures are read before the records, because the process may sign for itself meanwhile.
        signed = [each for control in site.controls for each in signatures(control)]
        records = {record.serial: record for record in await _records(store)}
        shards = await _drawn(engine)
    finally:
        await engine.close()
    _received(site, records)
    _signed(site, signed, records, shards)


async def _records(store: CheckerStore) -> list[CheckedRecord]:
    found: list[CheckedRecord] = []
    while page := await store.records(found[-1].serial if found else ""):
        found += page
    return found


async def _drawn(engine: ServiceEngine) -> list[Shard]:
    return [msgspec.convert(row, Shard) for row in await engine.fetch(_SHARDS)]


def _shards(
    site: Site,
    at: Replica,
    shards: list[Shard],
    authorities: Iterable[AuthorityRow],
    records: Iterable[CheckedRecord],
) -> None:
    """Assert that each shard's public CRL has all serials that the records or this client know as revoked."""
    keys = {row.id: x509.load_der_x509_certificate(row.certificate).public_key() for row in authorities}
    gone = [record for record in records if record.state in ("revoked", "orphaned") and record.shard]
    for shard in shards:
        crl = _fetched(site, at, shard.id)
        key = keys[shard.authority]
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert crl.is_signature_valid(key), shard.id
        named = {f"{entry.serial_number:040x}" for entry in crl}
        wanted = {record.serial for record in gone if record.shard == shard.id}
        wanted |= {serial for serial, name in site.memory.revoked.items() if shard_of(site, name) == shard.id}
        assert wanted <= named, f"{wanted - named} missing from {shard.id}"


def _fetched(site: Site, at: Replica, shard: str) -> Crl:
    answer = site.ask(at, "GET", crl_path(shard), service="pki")
    assert answer.status == 200, (shard, answer.body)
    crl = x509.load_der_x509_crl(answer.body)
    number = _number(crl)
    before, body = site.memory.crls.get(shard, (0, b""))
    assert number > before or answer.body == body, f"{shard} showed {before} before {number}"
    site.memory.crls[shard] = (number, answer.body)
    return crl


def shard_of(site: Site, name: str) -> str:
    """The shard that the certificate itself names."""
    certificate = x509.load_der_x509_certificate(site.memory.certificates[name])
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    return _shard_at(str((points[0].full_name or [])[0].value))


def _shard_at(url: str) -> str:
    authority, _, file = url.rpartition("/crl/")[2].partition("/")
    return f"{authority}.{file.removesuffix('.crl')}"


def _received(site: Site, records: dict[str, CheckedRecord]) -> None:
    """Assert that the records have each certificate of the client byte for byte, and none for another client."""
    known: set[str] = set(site.there_before)
    for name, der in site.memory.certificates.items():
        serial = f"{x509.load_der_x509_certificate(der).serial_number:040x}"
        assert serial not in known, f"{name} has a serial that was used before"
        known.add(serial)
        assert records[serial].certificate == der, name
        assert (records[serial].state == "revoked") == (serial in site.memory.revoked), (name, records[serial].state)
    signed = {record.serial: record for record in records.values() if record.certificate is not None}
    others = [signed[serial] for serial in signed.keys() - known]
    # Breakwater issues OCSP delegates and its own service certificate without a request of the client.
    strangers = [each for each in others if each.profile != "responder" and each.service != "breakwater"]
    assert [(each.profile, each.request_key) for each in strangers] == []
    for record in records.values():
        if (record.node, record.generation) in site.memory.closed:
            assert record.profile == "session" or record.state in ("revoked", "orphaned"), record.serial


def _signed(site: Site, signed: list[Signature], records: dict[str, CheckedRecord], shards: list[Shard]) -> None:
    """Assert that each signed certificate has a record, and that each serial and CRL number was signed once."""
    on_record = {record.tbs.hex() for record in records.values()} | site.forgotten
    drawn = {shard.id: shard.crl_number for shard in shards}
    certificates: dict[int, str] = {}
    numbers: dict[tuple[str, int], str] = {}
    for each in signed:
        if is_certificate(bytes.fromhex(each.tbs)):
            assert each.tbs in on_record, f"{each.authority} signed a certificate without a record"
            if each.der:
                serial = x509.load_der_x509_certificate(bytes.fromhex(each.der)).serial_number
                assert certificates.setdefault(serial, each.der) == each.der, f"{serial:x} was signed twice"
        elif each.der:
            crl = x509.load_der_x509_crl(bytes.fromhex(each.der))
            shard, number = _shard_at(_issuing_point(crl)), _number(crl)
            assert numbers.setdefault((shard, number), each.der) == each.der, f"{shard} has two CRLs {number}"
            assert each.tbs in site.forgotten or number <= drawn[shard], f"{shard} has CRL {number}, not drawn"


def _issuing_point(crl: Crl) -> str:
    point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    return str((point.full_name or [])[0].value)


def _number(crl: Crl) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
