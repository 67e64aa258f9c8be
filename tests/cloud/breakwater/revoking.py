"""Shared by the tests of CRLs and OCSP: authorities with keys, recorded certificates, and a database."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.audit import AuditEntries
from cloud.breakwater.errors import SignerError
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import Signer, issuer_of
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.lint import lint
from cloud.breakwater.pkix.linted import Linted, assemble
from cloud.breakwater.pkix.profiles import Issuer
from cloud.breakwater.revocation.crl_publisher import CrlPublisher
from cloud.breakwater.revocation.crl_shards import Places, distribution
from cloud.breakwater.revocation.ocsp_responder import OcspResponder
from cloud.breakwater.revocation.root_crls import RootCrls
from cloud.breakwater.settings import CrlSettings
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.revocation_status import RevocationStatusStore
from cloud.breakwater.store.root_crls import RootCrlStore
from cloud.breakwater.store.shards import ShardStore
from cloud.storage import Location, ServiceEngine, Statement
from protocol.ids import NodeId, NodeSpiffeId, ServiceSpiffeId, TenantId, make_id
from protocol.messages.sessions import Certificate

TRUST_DOMAIN = "cascade.test"
BASE_URL = "http://pki.cascade.test"
HOUR = timedelta(hours=1)
SCHEDULE = CrlSettings(life_hours=96, period_hours=8, outage_hours=72)
SPIFFE = NodeSpiffeId(TRUST_DOMAIN, TenantId(make_id("ten", 1, bytes(10))), NodeId(make_id("node", 1, bytes(10))))

_RECORD = Statement(
    "INSERT INTO certificate (serial, request_key, profile, state, tenant, node, generation, service, spki_sha256, tbs, "
    "certificate, not_before, not_after, caller, recorded_at, authority, shard, reason, profile_version) "
    "VALUES ({serial}, {serial}, {profile}, {state}, '', '', 0, {service}, '', {tbs}, {certificate}, {not_before}, "
    "{not_after}, 'test', {recorded_at}, {authority}, {shard}, 0, 2)"
)
_REVOKE = Statement(
    "UPDATE certificate SET state = {state}, revoked_at = {revoked_at}, reason = {reason} WHERE serial = {serial} "
    "RETURNING shard"
)
_MOVE = Statement("UPDATE shard SET revision = revision + 1 WHERE id = {id}")


def real_now() -> datetime:
    """The machine's time in whole seconds, because the openssl command verifies against that time."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class Clock:
    """A clock that the test moves. It starts at the machine's time."""

    at: datetime = field(default_factory=real_now)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, delta: timedelta) -> None:
        self.at += delta


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def new_public_key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def serial() -> int:
    return profiles.make_serial(os.urandom(20))


class BrokenSigner:
    """A signer that raises `error` if it is set."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.error: Exception | None = None
        self.asked = 0

    async def sign(self, linted: Linted) -> bytes:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return await self._signer.sign(linted)


@dataclass
class Hierarchy:
    """A root, `nodes-1`, `nodes-2` and `services-1`, made with the real profiles. It replaces `Authorities`."""

    start: datetime
    issuers: dict[str, Issuer] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        made = self.start - 24 * HOUR
        self.signer = Signer()
        root_key = self.root_key = ec.generate_private_key(ec.SECP384R1())
        wanted = profiles.want_root(f"{TRUST_DOMAIN} root CA 1", describe_key(root_key.public_key()), serial(), made)
        itself = profiles.self_issuer(wanted, "root-1")
        self._add("root-1", "root", sign_with(root_key, wanted, itself))
        below: tuple[tuple[str, profiles.CaName], ...] = (
            ("nodes-1", "nodes"),
            ("nodes-2", "nodes"),
            ("services-1", "services"),
        )
        for authority, ca in below:
            key = ec.generate_private_key(ec.SECP256R1())
            name = profiles.authority_name(TRUST_DOMAIN, ca, int(authority[-1]))
            wanted = profiles.want_issuing(
                name, describe_key(key.public_key()), serial(), made, self.issuers["root-1"], ca, TRUST_DOMAIN
            )
            self._add(authority, ca, sign_with(root_key, wanted, self.issuers["root-1"]))
            self.signer.add(self.issuers[authority], LocalKey(key))

    def _add(self, authority: str, ca: profiles.CaName, der: bytes) -> None:
        self.issuers[authority] = issuer_of(ca, authority, x509.load_der_x509_certificate(der))
        self.states[authority] = "active"

    def find(self, authority: str) -> Issuer | None:
        return self.issuers.get(authority)

    def rows(self) -> Sequence[AuthorityRow]:
        return [
            AuthorityRow(
                id=name,
                ca=issuer.name,
                number=1,
                state=self.states[name],  # type: ignore[arg-type]
                certificate=issuer.certificate_der,
                key="",
                changed_at=self.start,
            )
            for name, issuer in self.issuers.items()
        ]

    def bundle(self, directory: Path) -> Path:
        """Write every CA certificate as PEM into one file."""
        path = directory / "cas.pem"
        path.write_bytes(b"".join(pem(issuer.certificate_der) for issuer in self.issuers.values()))
        return path


def sign_with(key: ec.EllipticCurvePrivateKey, wanted: profiles.Wanted, issuer: Issuer) -> bytes:
    """Sign a certificate with the offline root's key."""
    linted = lint(profiles.build(wanted, issuer), wanted, issuer)
    algorithm = ec.ECDSA(profiles.hash_of(issuer.curve))
    return assemble(linted.redeem(), issuer.curve, key.sign(linted.tbs, algorithm))


class Responders:
    """Replaces `Issuing.issue_responder`. Raises `error` if it is set."""

    def __init__(self, hierarchy: Hierarchy, clock: Clock) -> None:
        self._hierarchy = hierarchy
        self._clock = clock
        self.error: Exception | None = None
        self.issued: list[str] = []
        self.tried: list[str] = []

    async def issue_responder(self, authority: str, public_key: ec.EllipticCurvePublicKey) -> Certificate:
        self.tried.append(authority)
        if self.error is not None:
            raise self.error
        issuer = self._hierarchy.find(authority)
        if issuer is None:
            raise SignerError(f"no CA {authority}")
        wanted = profiles.want_responder(describe_key(public_key), serial(), self._clock(), issuer)
        linted = lint(profiles.build(wanted, issuer), wanted, issuer)
        self.issued.append(authority)
        return Certificate((await self._hierarchy.signer.sign(linted), issuer.certificate_der))


@dataclass
class Bench:
    """Publisher and OCSP responder over one open database."""

    engine: ServiceEngine
    hierarchy: Hierarchy
    clock: Clock
    base_url: str = BASE_URL

    def __post_init__(self) -> None:
        self.shards = ShardStore(self.engine)
        self.revocations = RevocationStatusStore(self.engine)
        self.places = Places(self.shards, self.base_url)
        self.signer = BrokenSigner(self.hierarchy.signer)
        self.responders = Responders(self.hierarchy, self.clock)
        self.publisher = self.another_publisher()
        self.responder = OcspResponder(self.revocations, self.hierarchy, self.responders, self.clock)
        entries = AuditEntries(AuditRow, self.clock, os.urandom)
        self.root_crls = RootCrls(RootCrlStore(self.engine), self.hierarchy, entries, self.clock)

    def another_publisher(self) -> CrlPublisher:
        """The publisher of another replica."""
        return CrlPublisher(self.shards, self.hierarchy, self.signer, self.base_url, SCHEDULE, self.clock)

    async def issue(
        self, authority: str = "nodes-1", life: timedelta = timedelta(days=90), shard: str | None = None
    ) -> x509.Certificate:
        """Issue and record a device or service certificate."""
        issuer = self.hierarchy.issuers[authority]
        place = (await self.places.take(authority)).shard if shard is None else shard
        key = describe_key(new_public_key())
        where = distribution(self.base_url, authority, place)
        if authority.startswith("services"):
            spiffe = ServiceSpiffeId(TRUST_DOMAIN, "fabric")
            wanted = profiles.want_service(spiffe, ("fabric.test",), (), key, serial(), self.clock(), issuer, where)
        else:
            end = self.clock() + life
            wanted = profiles.want_device(SPIFFE, 1, key, serial(), self.clock(), end, issuer, where)
        der = await self.sign(wanted, issuer)
        await self.record(wanted, authority, place, der)
        return x509.load_der_x509_certificate(der)

    async def sign(self, wanted: profiles.Wanted, issuer: Issuer) -> bytes:
        return await self.hierarchy.signer.sign(lint(profiles.build(wanted, issuer), wanted, issuer))

    async def record(
        self, wanted: profiles.Wanted, authority: str, shard: str, der: bytes | None, state: str = "issued"
    ) -> None:
        await self.engine.fetch(
            _RECORD,
            serial=serial_text(wanted.serial),
            profile=wanted.profile,
            state=state,
            service="fabric" if wanted.profile == "service" else "",
            tbs=b"",
            certificate=der,
            not_before=wanted.not_before,
            not_after=wanted.not_after,
            recorded_at=self.clock(),
            authority=authority,
            shard=shard,
        )

    async def revoke(self, number: int, reason: int = 4, state: str = "revoked") -> None:
        """Revoke a certificate with the statements of the issuer's transaction."""
        async with self.engine.transaction():
            values = {"state": state, "revoked_at": self.clock(), "reason": reason}
            (row,) = await self.engine.fetch(_REVOKE, serial=serial_text(number), **values)
            await self.engine.fetch(_MOVE, id=row["shard"])


@asynccontextmanager
async def bench_at(location: Location, hierarchy: Hierarchy, clock: Clock) -> AsyncIterator[Bench]:
    """A bench over a migrated database."""
    engine = ServiceEngine("breakwater")
    engine.configure(location)
    await engine.open()
    try:
        yield Bench(engine, hierarchy, clock)
    finally:
        await engine.close()


def crl_of(der: bytes) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(der)


def number_of(der: bytes) -> int:
    return crl_of(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def serials_of(der: bytes) -> set[int]:
    return {entry.serial_number for entry in crl_of(der)}
