"""A CA hierarchy in memory, made with the functions of the ceremonies, and one certificate of each profile."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.ceremony.signing import CaIdentity, make_cross, make_issuing, make_root
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.csr import RequestedKey, describe_key
from cloud.breakwater.pkix.lint import lint
from cloud.breakwater.pkix.profiles import Distribution, Issuer, Wanted
from protocol.ids import NodeId, NodeSpiffeId, ServiceSpiffeId, TenantId, make_id

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
TRUST_DOMAIN = "cascade.test"
TENANT = TenantId(make_id("ten", 1, b"0123456789"))
SPIFFE = NodeSpiffeId(TRUST_DOMAIN, TENANT, NodeId(make_id("node", 1, b"0123456789")))
FABRIC = ServiceSpiffeId(TRUST_DOMAIN, "fabric")
SERIAL = profiles.make_serial(b"\x11" * 20)


def local(scalar: int, curve: ec.EllipticCurve | None = None) -> LocalKey:
    """A key that depends only on the number."""
    return LocalKey(ec.derive_private_key(scalar, curve or ec.SECP256R1()))


def requested(key: LocalKey) -> RequestedKey:
    return describe_key(key.public_key)


def where(issuer: Issuer, shard: int = 0) -> Distribution:
    """The addresses in the certificates of this authority."""
    base = "http://pki.cascade.test:8443"
    return Distribution(
        f"{base}/crl/{issuer.authority}/{shard}.crl",
        f"{base}/ocsp/{issuer.authority}",
        f"{base}/ca/{issuer.authority}.cer",
    )


@dataclass
class Chain:
    """A root and its two issuing CAs, with their keys."""

    root: Issuer
    root_key: LocalKey
    nodes: Issuer
    nodes_key: LocalKey
    services: Issuer
    services_key: LocalKey

    def key_of(self, issuer: Issuer) -> LocalKey:
        return {"root": self.root_key, "nodes": self.nodes_key, "services": self.services_key}[issuer.name]

    async def sign(self, wanted: Wanted, issuer: Issuer) -> bytes:
        """A certificate that went through the lint and the signer."""
        signer = Signer()
        signer.add(issuer, self.key_of(issuer))
        return await signer.sign(lint(profiles.build(wanted, issuer), wanted, issuer))

    def wanted(self) -> dict[str, tuple[Wanted, Issuer]]:
        """A `Wanted` of each leaf profile, and its issuer."""
        key, end = requested(local(21)), NOW + timedelta(days=90)
        nodes, services = self.nodes, self.services
        hosts = (("localhost",), (ip_address("127.0.0.1"), ip_address("::1")))
        device = profiles.want_device(SPIFFE, 3, key, SERIAL, NOW, end, nodes, where(nodes))
        return {
            "device": (device, nodes),
            "session": (profiles.want_session(SPIFFE, 3, key, SERIAL, NOW, end, nodes), nodes),
            "service": (profiles.want_service(FABRIC, *hosts, key, SERIAL, NOW, services, where(services)), services),
            "responder": (profiles.want_responder(key, SERIAL, NOW, nodes), nodes),
            "services-responder": (profiles.want_responder(key, SERIAL, NOW, services), services),
        }


async def make_chain(number: int = 1, trust_domain: str = TRUST_DOMAIN) -> Chain:
    """Generation `number` of the root and both issuing CAs."""
    root_key = local(100 * number + 1, ec.SECP384R1())
    nodes_key, services_key = local(100 * number + 2), local(100 * number + 3)
    root = await make_root(CaIdentity(trust_domain, "root", number), root_key, SERIAL + number, NOW)
    nodes = await make_issuing(
        CaIdentity(trust_domain, "nodes", number), requested(nodes_key), root, root_key, SERIAL + number + 20, NOW
    )
    services = await make_issuing(
        CaIdentity(trust_domain, "services", number), requested(services_key), root, root_key, SERIAL + number + 40, NOW
    )
    return Chain(root, root_key, nodes, nodes_key, services, services_key)


async def cross(new: Chain, old: Chain) -> bytes:
    """The cross-certificate of the new root, signed by the old root."""
    return await make_cross(new.root, old.root, old.root_key, SERIAL + 60, NOW)


async def specimens() -> dict[str, tuple[bytes, Issuer]]:
    """A certificate (DER) of each profile, and its issuer."""
    chain, newer = await make_chain(1), await make_chain(2)
    found = {name: (await chain.sign(*wanted), wanted[1]) for name, wanted in chain.wanted().items()}
    return found | {
        "root": (chain.root.certificate_der, chain.root),
        "issuing-nodes": (chain.nodes.certificate_der, chain.root),
        "issuing-services": (chain.services.certificate_der, chain.root),
        "cross": (await cross(newer, chain), chain.root),
    }


def profile_of(specimen: str) -> str:
    return "issuing" if specimen.startswith("issuing") else specimen.removeprefix("services-")


def load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def pem(der: bytes) -> bytes:
    return load(der).public_bytes(serialization.Encoding.PEM)
