"""A temporary PKI in the shape of Breakwater's: a root, an issuing CA for each class, and any certificates."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.mtls.peer import PeerTrust
from protocol.ids import NodeId, TenantId, make_id

TRUST_DOMAIN = "cascade.test"
TENANT = TenantId(make_id("ten", 1, b"0123456789"))
NODE_ID = NodeId(make_id("node", 1, b"0123456789"))
NODE_URI = f"spiffe://{TRUST_DOMAIN}/tenant/{TENANT}/node/{NODE_ID}"
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


def service_uri(name: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/service/{name}"


@dataclass
class Authority:
    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass
class Leaf:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    chain_pem: bytes


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def authority(common_name: str, above: Authority | None = None) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = name((NameOID.COMMON_NAME, common_name))
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.certificate.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if above else None), critical=True)
    )
    return Authority(common_name, key, builder.sign(above.key if above else key, hashes.SHA256()))


@dataclass
class Pki:
    root: Authority = field(default_factory=lambda: authority("root"))
    nodes: Authority = field(init=False)
    services: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = authority("nodes", self.root)
        self.services = authority("services", self.root)

    @property
    def ca_pem(self) -> bytes:
        return self.root.pem + self.nodes.pem + self.services.pem

    @property
    def trust(self) -> PeerTrust:
        return PeerTrust(TRUST_DOMAIN, (self.nodes.certificate,), (self.services.certificate,))

    def leaf(
        self,
        issuer: Authority,
        uris: tuple[str, ...],
        *,
        subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = (),
        usages: tuple[x509.ObjectIdentifier, ...] = (CLIENT,),
        dns: tuple[str, ...] = (),
        life: timedelta = timedelta(hours=1),
        begins: timedelta = timedelta(minutes=-5),
    ) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(*subject))
            .issuer_name(issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + max(life, begins + timedelta(hours=1)) if begins > timedelta(0) else now + life)
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(text) for text in dns]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = builder.sign(issuer.key, hashes.SHA256())
        return Leaf(key, certificate, certificate.public_bytes(serialization.Encoding.PEM) + issuer.pem)

    def node(self, generation: str = "1", life: timedelta = timedelta(hours=1)) -> Leaf:
        subject = ((NameOID.COMMON_NAME, str(NODE_ID)), (NameOID.SERIAL_NUMBER, generation))
        return self.leaf(self.nodes, (NODE_URI,), subject=subject, life=life)

    def service(self, service: str, dns: tuple[str, ...] = ("localhost",)) -> Leaf:
        return self.leaf(
            self.services,
            (service_uri(service),),
            subject=((NameOID.COMMON_NAME, service),),
            usages=(SERVER, CLIENT),
            dns=dns,
        )
