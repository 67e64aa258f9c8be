"""Real part: certificates and lists that a test cloud does not have by itself, signed with the keys of its CAs.

The functions of the ceremonies and the profiles make a second root, its cross-certificate, a service below it, and a
responder whose key is in a file. Lists name a CA or the running Breakwater. Two certificates break the constraints of
their CA; the product's own code cannot build them.
"""

import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.breakwater.ceremony.signing import CaIdentity, make_cross, make_issuing, make_root, make_root_crl
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import Signer, issuer_of
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.crl import Entry, make_crl, want_crl
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.lint import lint
from cloud.breakwater.pkix.profiles import CaName, Issuer, Wanted
from cloud.breakwater.revocation.crl_shards import crl_path, distribution, root_crl_path
from cloud.crypto.keyfile import read_key, read_passphrase
from lab.cloud import Cloud
from protocol.ids import ServiceSpiffeId
from tests.strangers.files import Files, load
from tests.strangers.tasks import Leaf
from tests.system.support.wire import PORTS, new_key

TRUST_DOMAIN = "cascade.internal"
NOWHERE = "http://127.0.0.1:9"
"""The base of the addresses in certificates that this module makes. Programs get these lists as files."""
NUMBER = 2**60
"""The number of each list that replaces a published one. It is higher than the number of the published one."""
LIFE = timedelta(days=7)
_KEYS = {
    "root": "offline/root-ca.key.pem",
    "nodes": "breakwater/keys/nodes-ca.key.pem",
    "services": "breakwater/keys/services-ca.key.pem",
}


class _Beside:
    """Makes the files. `leaves` fills with the certificates of end entities."""

    def __init__(self, files: Files, cloud: Cloud) -> None:
        self.files = files
        self.cloud = cloud
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.leaves: dict[str, Leaf] = {}

    def ca(self, name: CaName) -> tuple[Issuer, ec.EllipticCurvePrivateKey]:
        """The first generation of a CA, and its key."""
        passphrase = read_passphrase(self.cloud.directory / "secrets" / "passphrase")
        key = read_key(self.cloud.directory / _KEYS[name], passphrase)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"the key of {name}-1 is not an EC key")
        return issuer_of(name, f"{name}-1", load(self.files.folder / f"{name}-1.pem")), key

    async def cross(self) -> None:
        """The second root, its cross-certificate, an issuing CA and a service below it, and their lists."""
        root, root_key = self.ca("root")
        keys = LocalKey(ec.generate_private_key(ec.SECP384R1())), LocalKey(new_key())
        other = await make_root(CaIdentity(TRUST_DOMAIN, "root", 2), keys[0], _serial(), self.now)
        url = NOWHERE + root_crl_path("root-2")
        asked = describe_key(keys[1].public_key)
        identity = CaIdentity(TRUST_DOMAIN, "services", 2)
        services = await make_issuing(identity, asked, other, keys[0], _serial(), self.now, url)
        url = NOWHERE + root_crl_path("root-1")
        cross = await make_cross(other, root, LocalKey(root_key), _serial(), self.now, url)
        made = {"root-2": other.certificate_der, "services-2": services.certificate_der, "cross": cross}
        for name, der in made.items():
            self.files.certificate(name, der)
        self.files.list("root-2", await make_root_crl(1, [], other, keys[0], self.now, LIFE))
        await self.crossed_service(services, keys[1])

    async def crossed_service(self, services: Issuer, ca_key: LocalKey) -> None:
        where = distribution(NOWHERE, "services-2", "services-2.1")
        key, spiffe = new_key(), ServiceSpiffeId(TRUST_DOMAIN, "fabric")
        asked, hosts = describe_key(key.public_key()), (ip_address("127.0.0.1"),)
        wanted = profiles.want_service(spiffe, (), hosts, asked, _serial(), self.now, services, where)
        await self.sign("service-crossed", wanted, services, ca_key, key)
        self.leaves["service-crossed"] = Leaf(
            "service-crossed.pem",
            ("services-2.pem", "cross.pem"),
            ("services-2.crl", "root-2.crl", "root-1.crl"),
            "service-crossed.key",
        )
        signer = Signer()
        signer.add(services, ca_key)
        wanted_list = want_crl(1, self.now, LIFE, [], where.crl_url)
        self.files.list("services-2", await signer.sign(make_crl(wanted_list, services)))

    async def responder(self) -> None:
        """A responder of `nodes-1`. The key of the running responder is in its memory only."""
        issuer, ca_key = self.ca("nodes")
        key = new_key()
        wanted = profiles.want_responder(describe_key(key.public_key()), _serial(), self.now, issuer)
        await self.sign("responder", wanted, issuer, LocalKey(ca_key), key)
        self.leaves["responder"] = Leaf("responder.pem", ("nodes-1.pem",), ("", "root-1.crl"), "responder.key")

    async def sign(
        self, name: str, wanted: Wanted, issuer: Issuer, ca_key: LocalKey, key: ec.EllipticCurvePrivateKey
    ) -> None:
        signer = Signer()
        signer.add(issuer, ca_key)
        self.files.certificate(name, await signer.sign(lint(profiles.build(wanted, issuer), wanted, issuer)))
        self.files.key(name, key)

    async def lists(self) -> None:
        """`root-1-revoked` names the issuing CAs and the cross-certificate, `services-1-revoked` the Breakwater."""
        root, root_key = self.ca("root")
        names = ("nodes-1", "services-1", "cross")
        cas = [Entry(load(self.files.folder / f"{name}.pem").serial_number, self.now, 2) for name in names]
        made = await make_root_crl(NUMBER, cas, root, LocalKey(root_key), self.now, LIFE)
        self.files.list("root-1-revoked", made)
        issuer, key = self.ca("services")
        signer = Signer()
        signer.add(issuer, LocalKey(key))
        url = f"http://127.0.0.1:{self.cloud.port + PORTS['pki']}{crl_path('services-1.1')}"
        own = load(self.cloud.directory / "breakwater" / "tls" / "chain.pem").serial_number
        wanted = want_crl(NUMBER, self.now, LIFE, [Entry(own, self.now, 1)], url)
        self.files.list("services-1-revoked", await signer.sign(make_crl(wanted, issuer)))

    def foreign(self, name: str, ca: CaName, uri: str) -> None:
        """The certificate of a server with a name that its CA may not certify."""
        (issuer, ca_key), key = self.ca(ca), new_key()
        san = [x509.UniformResourceIdentifier(uri), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "foreign")]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(_serial())
            .not_valid_before(self.now - timedelta(minutes=5))
            .not_valid_after(self.now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(x509.SubjectAlternativeName(san), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier(issuer.key_id, None, None), False)
        )
        self.files.certificate(name, builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.DER))
        self.files.key(name, key)
        self.leaves[name] = Leaf(f"{name}.pem", (f"{ca}-1.pem",), ("", "root-1.crl"), f"{name}.key")


async def add_beside(files: Files, cloud: Cloud) -> dict[str, Leaf]:
    """Write all files of this module, beside the certificates of the CAs. Returns the end entities by name."""
    beside = _Beside(files, cloud)
    await beside.cross()
    await beside.responder()
    await beside.lists()
    beside.foreign("foreign-service", "services", "spiffe://foreign.test/service/fabric")
    beside.foreign("foreign-node", "nodes", f"spiffe://{TRUST_DOMAIN}/service/fabric")
    return beside.leaves


def _serial() -> int:
    return profiles.make_serial(secrets.token_bytes(20))
