"""Shared by the tests of the issuer: a clock, requests for certificates, and an issuer over a database."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.bootstrap import Plan
from cloud.breakwater.generations import Generations
from cloud.breakwater.issuance.executor import OrderExecutor
from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.parts import Parts, Sources, open_parts
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.revocation.service_certificates import ServiceCertificates
from cloud.breakwater.store import Stores, stores_over
from cloud.contracts.breakwater import CloseGeneration, CloseGenerations, IssueNodeCertificate, OpenGeneration
from cloud.contracts.breakwater_events import ServiceCertificateV1
from cloud.events.encoding import EVENTS_MAX
from cloud.events.outbox import Outbox
from cloud.mtls.identity import make_csr
from cloud.storage import Location, Row, ServiceEngine, Statement
from protocol.ids import NodeId, NodeSpiffeId, TenantId, make_id

TRUST_DOMAIN = "cascade.test"
PKI_URL = "http://pki.cascade.test"
PASSPHRASE = b"a passphrase for tests only"
TENANT = TenantId(make_id("ten", 1, b"0123456789"))
OTHER_TENANT = TenantId(make_id("ten", 2, b"0123456789"))
NODE = NodeId(make_id("node", 1, b"0123456789"))
SPIFFE = NodeSpiffeId(TRUST_DOMAIN, TENANT, NODE)
FABRIC = "service/fabric"
START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that the test moves."""

    at: datetime = START

    def __call__(self) -> datetime:
        return self.at

    def forward(self, delta: timedelta) -> None:
        self.at += delta


def new_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


def plan_for(directory: Path, port: int = 0) -> Plan:
    """A plan whose passphrase file is `directory`/passphrase."""
    return Plan(
        directory=directory / "breakwater",
        offline=directory / "offline",
        tls={"breakwater": directory / "breakwater" / "tls", "fabric": directory / "fabric" / "tls"},
        trust_domain=TRUST_DOMAIN,
        hosts=("127.0.0.1", "localhost"),
        port=port,
        passphrase=PASSPHRASE,
        passphrase_file="../passphrase",
        public_url=PKI_URL,
    )


def ask(
    key: ec.EllipticCurvePrivateKey,
    *,
    request: str = "r1",
    generation: int = 1,
    not_after: datetime = START + timedelta(days=90),
    tenant: TenantId = TENANT,
) -> IssueNodeCertificate:
    return IssueNodeCertificate(request, tenant, NODE, generation, make_csr(key), not_after)


def opening(generation: int = 1, tenant: TenantId = TENANT) -> OpenGeneration:
    return OpenGeneration(tenant, NODE, generation)


def closing(up_to: int = 1, tenant: TenantId = TENANT) -> CloseGenerations:
    return CloseGenerations(tenant, NODE, up_to)


def closing_one(generation: int = 1, tenant: TenantId = TENANT) -> CloseGeneration:
    return CloseGeneration(tenant, NODE, generation)


_RECORDS = Statement("SELECT * FROM certificate ORDER BY recorded_at LIMIT 1000")
_AUDIT = Statement("SELECT * FROM audit ORDER BY id LIMIT 1000")
_SHARDS = Statement("SELECT * FROM shard ORDER BY id LIMIT 1000")


_made = count()


def entropy(size: int) -> bytes:
    """Random bytes. The 10 bytes of an id begin with a counter, so that ids sort in the order of their creation."""
    return os.urandom(size) if size != 10 else next(_made).to_bytes(4, "big") + os.urandom(6)


@dataclass
class Issuer:
    """A running issuer, and its open database."""

    parts: Parts
    engine: ServiceEngine
    clock: Clock
    issuing: Issuing = field(init=False)
    executor: OrderExecutor = field(init=False)
    generations: Generations = field(init=False)
    service_certificates: ServiceCertificates = field(init=False)
    authorities: Authorities = field(init=False)
    signer: Signer = field(init=False)
    now: Callable[[], datetime] = field(init=False)

    def __post_init__(self) -> None:
        self.issuing = self.parts.issuing
        self.executor = self.parts.executor
        self.generations = self.parts.generations
        self.service_certificates = self.parts.service_certificates
        self.authorities = self.parts.authorities
        self.signer = self.parts.signer
        self.now = self.clock

    async def is_revoked(self, serial: int) -> bool:
        """The check that the guard of the listener makes."""
        return await self.parts.stores.issuance.is_revoked(serial)

    async def records(self) -> list[Row]:
        """Every record, oldest first. Among records of the same time, those without a certificate come first."""
        rows = await self.engine.fetch(_RECORDS)
        return sorted(rows, key=lambda row: (row["recorded_at"], row["certificate"] is not None))

    async def node_rows(self) -> list[Row]:
        """The records of the node, oldest first."""
        return [row for row in await self.records() if row["node"] == NODE]

    async def audit(self) -> list[Row]:
        """Every audit row, oldest first, except those of the installation."""
        return [
            row
            for row in await self.engine.fetch(_AUDIT)
            if row["action"] != "authority.adopt" and (row["caller"], row["action"]) != ("init", "authority.crl")
        ]

    async def shards(self) -> list[Row]:
        """Every shard."""
        return await self.engine.fetch(_SHARDS)


def sources_at(home: Path) -> Sources:
    """The sources of an initialised directory."""
    return Sources(directory=home / "breakwater", passphrase=PASSPHRASE, trust_domain=TRUST_DOMAIN, pki_url=PKI_URL)


@asynccontextmanager
async def issuer_at(
    home: Path, database: Location, clock: Clock, signer: Signer | None = None
) -> AsyncIterator[Issuer]:
    """An issuer with the CAs of `home` over a migrated database."""
    engine = ServiceEngine("breakwater")
    engine.configure(database)
    await engine.open()
    try:
        async with open_parts(engine, sources_at(home), clock, entropy, signer) as parts:
            yield Issuer(parts, engine, clock)
    finally:
        await engine.close()


async def reported_certificates(issuer: Issuer) -> set[str]:
    """The serials of the revoked certificates of services that Breakwater has published as events."""
    page = await issuer.parts.events.snapshots.page("service_certificate/", EVENTS_MAX)
    bodies = [
        msgspec.json.decode(event.data, type=ServiceCertificateV1)
        for event in page.events
        if event.subject.startswith("service_certificate/")
    ]
    return {body.serial for body in bodies}


def stores_of(engine: ServiceEngine) -> Stores:
    """The stores over an engine, with an outbox that no process numbers."""
    return stores_over(engine, Outbox(engine, "breakwater", lambda: START, entropy=os.urandom))


class Watched(Signer):
    """A signer that calls `before` ahead of each signature."""

    def __init__(self, before: Callable[[Linted], Awaitable[None]]) -> None:
        super().__init__()
        self._before = before

    async def sign(self, linted: Linted) -> bytes:
        await self._before(linted)
        return await super().sign(linted)


def load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def pem(der: bytes) -> bytes:
    return load(der).public_bytes(serialization.Encoding.PEM)
