"""Helper: a second generation of CAs beside that of `cascade init`, and an issuer that signs with any CA."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.contracts.breakwater import GenerationsPage
from cloud.mtls.peer import key_id_of
from protocol.ids import EKU_DEVICE, NodeId, NodeSpiffeId, ServiceName, ServiceSpiffeId, TenantId
from protocol.limits import CLOCK_SKEW, SESSION_LIFE_MAX
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.support import START, TRUST_DOMAIN, Clock

BEGAN = START - timedelta(days=1)
ENDS = START + timedelta(days=3652)
DEVICE = x509.ObjectIdentifier(EKU_DEVICE)


@dataclass
class Authority:
    """A CA with its generation in the subject, as in Breakwater."""

    name: str
    above: "Authority | None" = None
    not_after: datetime = ENDS
    ca: bool = True
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        above = self.above or self
        issuer = self.above.certificate.subject if self.above else subject
        public = self.key.public_key()
        self.certificate = (
            x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), BEGAN, self.not_after)
            .add_extension(x509.BasicConstraints(self.ca, 0 if self.above and self.ca else None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(above.key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_id(self) -> str:
        return key_id_of(self.certificate)

    def sign(
        self,
        uri: str,
        subject: tuple[tuple[x509.ObjectIdentifier, str], ...],
        key: ec.EllipticCurvePublicKey,
        usages: tuple[x509.ObjectIdentifier, ...],
        dates: tuple[datetime, datetime],
    ) -> x509.Certificate:
        """An end-entity certificate."""
        name = x509.Name([x509.NameAttribute(oid, text) for oid, text in subject])
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        return (
            x509.CertificateBuilder(self.certificate.subject, name, key, x509.random_serial_number(), *dates)
            .add_extension(names, critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def service(self, name: ServiceName) -> x509.Certificate:
        """A service's TLS certificate."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        uri = str(ServiceSpiffeId(TRUST_DOMAIN, name))
        return self.sign(uri, ((NameOID.COMMON_NAME, name),), key, (ExtendedKeyUsageOID.SERVER_AUTH,), (BEGAN, ENDS))


@dataclass
class Generation:
    """A root and its two issuing CAs."""

    number: int = 2
    root: Authority = field(init=False)
    nodes: Authority = field(init=False)
    services: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.root = Authority(f"root {self.number}")
        self.nodes = Authority(f"nodes CA {self.number}", self.root)
        self.services = Authority(f"services CA {self.number}", self.root)


@dataclass
class PaperIssuer:
    """A Breakwater whose active CA for nodes is `nodes`. It stores nothing and refuses nothing."""

    nodes: Authority
    clock: Clock

    async def list_generations(self, cursor: str) -> GenerationsPage:
        return GenerationsPage((), "", 0)

    async def open_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None: ...

    async def close_generations(self, tenant: TenantId, node: NodeId, up_to: int) -> None: ...

    async def close_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None: ...

    async def supersede_keys(self, tenant: TenantId, node: NodeId, generation: int, spki_sha256: str) -> None: ...

    async def issue_device(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        return self._issue(tenant, node, generation, csr, DEVICE, not_after)

    async def issue_session(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        end = min(not_after, self.clock() + SESSION_LIFE_MAX)
        return self._issue(tenant, node, generation, csr, ExtendedKeyUsageOID.CLIENT_AUTH, end)

    def _issue(
        self,
        tenant: TenantId,
        node: NodeId,
        generation: int,
        csr: bytes,
        usage: x509.ObjectIdentifier,
        not_after: datetime,
    ) -> Certificate:
        key = x509.load_der_x509_csr(csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        subject = ((NameOID.COMMON_NAME, str(node)), (NameOID.SERIAL_NUMBER, str(generation)))
        uri = str(NodeSpiffeId(TRUST_DOMAIN, tenant, node))
        dates = self.clock() - CLOCK_SKEW, not_after.astimezone(UTC)
        leaf = self.sign(uri, subject, key, usage, dates)
        return Certificate((leaf.public_bytes(serialization.Encoding.DER), self.nodes.der))

    def sign(
        self,
        uri: str,
        subject: tuple[tuple[x509.ObjectIdentifier, str], ...],
        key: ec.EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        dates: tuple[datetime, datetime],
    ) -> x509.Certificate:
        return self.nodes.sign(uri, subject, key, (usage,), dates)
