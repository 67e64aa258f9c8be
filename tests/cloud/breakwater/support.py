"""What the tests of the issuer share: a clock, node keys and requests, and an issuer over a database file."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.bootstrap import Plan
from cloud.breakwater.service import Issuing
from cloud.breakwater.signer import Signer, load_file_signer
from cloud.breakwater.store import Store
from cloud.issuing import CloseGeneration, CloseGenerations, IssueNodeCertificate, OpenGeneration
from cloud.service_identity import make_csr
from cloud.storage import ServiceEngine, Statement
from cloud.storage.statement import Row
from protocol.ids import NodeId, NodeSpiffeId, TenantId, make_id

TRUST_DOMAIN = "cascade.test"
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
    """A plan whose passphrase lies in `directory`/passphrase."""
    return Plan(
        directory=directory / "breakwater",
        offline=directory / "offline",
        tls={"breakwater": directory / "breakwater" / "tls", "fabric": directory / "fabric" / "tls"},
        trust_domain=TRUST_DOMAIN,
        hosts=("127.0.0.1", "localhost"),
        port=port,
        passphrase=PASSPHRASE,
        passphrase_file="../passphrase",
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


_RECORDS = Statement("SELECT * FROM certificate ORDER BY rowid LIMIT 1000")
_AUDIT = Statement("SELECT * FROM audit ORDER BY rowid LIMIT 1000")


@dataclass
class Issuer:
    """An issuer at work, and its database open beside it."""

    issuing: Issuing
    engine: ServiceEngine
    signer: Signer
    clock: Clock
    root: x509.Certificate
    now: Callable[[], datetime] = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.clock

    async def records(self) -> list[Row]:
        """Every record, oldest first."""
        return await self.engine.fetch(_RECORDS)

    async def node_rows(self) -> list[Row]:
        """The records of the node, oldest first."""
        return [row for row in await self.records() if row["node"] == NODE]

    async def audit(self) -> list[Row]:
        """Every line of the audit, oldest first."""
        return await self.engine.fetch(_AUDIT)


@asynccontextmanager
async def issuer_at(
    home: Path, database: Path, clock: Clock, wrap: Callable[[Signer], Signer] | None = None
) -> AsyncIterator[Issuer]:
    """An issuer with the CAs of `home` over a migrated database file."""
    signer, root = load_file_signer(home / "breakwater", PASSPHRASE)
    used = wrap(signer) if wrap is not None else signer
    engine = ServiceEngine("breakwater")
    engine.configure(database)
    await engine.open()
    try:
        yield Issuer(Issuing(Store(engine), used, TRUST_DOMAIN, clock, os.urandom), engine, used, clock, root)
    finally:
        await engine.close()


def load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def pem(der: bytes) -> bytes:
    return load(der).public_bytes(serialization.Encoding.PEM)
