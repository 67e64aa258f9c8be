"""Breakwater issuing session certificates, beside the same certificate made in a bare loop.

The floor is what no issuer can leave out, with the library's own builders: parse the request, check its proof of
possession, build the certificate, sign it. The service does that and more: TLS, HTTP, the guard, the lint, a record
before the signature and the certificate after it, both on disk before the answer.
"""

import os
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from benchmarks import wire
from benchmarks.figures import Aim, Figure, progress
from benchmarks.world import World
from cloud.client import ServerCheck, client_context, expected_service
from cloud.issuing import PATH_OPEN, PATH_SESSION, IssueNodeCertificate, OpenGeneration
from cloud.peer import PeerTrust
from cloud.service_identity import load_identity, make_csr
from node.clock import utc_now
from protocol.ids import NodeId, NodeSpiffeId, TenantId, make_id

ISSUANCES = 3000
FLOOR_SECONDS = 1.5
TRUST_DOMAIN = "cascade.internal"
FLOOR_NAME = "parse, check, build and sign in a bare loop on one core"


def new_id(prefix: Literal["ten", "node"]) -> str:
    return make_id(prefix, int(utc_now().timestamp() * 1000), os.urandom(10))


def requests_for_keys(count: int) -> list[bytes]:
    """CSRs of as many new keys."""
    return [make_csr(ec.generate_private_key(ec.SECP256R1())) for _ in range(count)]


def fabric_context(world: World) -> Callable[[], ssl.SSLContext]:
    """Client contexts of the service Fabric, for Breakwater."""
    fabric = world.cloud_directory / "fabric"
    certificates = {
        name: x509.load_pem_x509_certificate((fabric / "certs" / f"{name}.pem").read_bytes())
        for name in ("root", "nodes-ca", "services-ca")
    }
    identity = load_identity(fabric / "tls", world.cloud_directory / "secrets" / "passphrase")
    trust = PeerTrust(TRUST_DOMAIN, (certificates["nodes-ca"],), (certificates["services-ca"],))
    root = certificates["root"].public_bytes(serialization.Encoding.PEM)

    def context() -> ssl.SSLContext:
        check = ServerCheck(expected_service(TRUST_DOMAIN, "breakwater"), trust, utc_now, lambda _: False)
        return client_context(root, check, identity.chain_pem, identity.key)

    return context


class BareIssuer:
    """The floor: an issuing CA's name and a key like it, and `cryptography`."""

    def __init__(self, world: World) -> None:
        path = world.cloud_directory / "breakwater" / "certs" / "nodes-ca.pem"
        ca = x509.load_pem_x509_certificate(path.read_bytes())
        self._name = ca.subject
        self._key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._spiffe = str(NodeSpiffeId(TRUST_DOMAIN, TenantId(new_id("ten")), NodeId(new_id("node"))))

    def issue(self, csr: bytes) -> bytes:
        """A certificate with the fields and extensions of a session certificate."""
        request = x509.load_der_x509_csr(csr)
        if not request.is_signature_valid:
            raise ValueError("the request does not prove possession")
        start = utc_now()
        subject = [
            x509.NameAttribute(NameOID.COMMON_NAME, self._spiffe.rpartition("/")[2]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "1"),
        ]
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        key = request.public_key()
        certificate = (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .subject_name(x509.Name(subject))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(hours=12))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self._spiffe)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier(self._key_id, None, None), critical=False)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00"), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.DER)


def per_cpu_second(work: Callable[[bytes], object], inputs: list[bytes]) -> float:
    """How often `work` is done in a second of CPU time, over `inputs` in turn for about `FLOOR_SECONDS`."""
    count, began = 0, time.process_time()
    while time.process_time() - began < FLOOR_SECONDS:
        for one in inputs:
            work(one)
        count += len(inputs)
    return count / (time.process_time() - began)


def issuances(world: World) -> list[Figure]:
    """Certificates by second of the server's CPU time, and on the wall."""
    world.installed()
    pid = world.cloud_up()
    context = fabric_context(world)
    progress(f"issuances: {ISSUANCES} requests, and the bare loop")
    keys = requests_for_keys(ISSUANCES + wire.WARM_UP)
    floor = BareIssuer(world)
    bare_before = per_cpu_second(floor.issue, keys[:200])
    tenant, node = TenantId(new_id("ten")), NodeId(new_id("node"))
    wire.run(
        [wire.post(PATH_OPEN, OpenGeneration(tenant, node, 1))], pid=pid, port=world.port + 1, context=context,
        connections=1, warm_up=0,
    )  # fmt: skip
    end = utc_now() + timedelta(days=60)
    requests = [
        wire.post(PATH_SESSION, IssueNodeCertificate(f"benchmark-{number}", tenant, node, 1, csr, end))
        for number, csr in enumerate(keys)
    ]
    load = wire.run(requests, pid=pid, port=world.port + 1, context=context)
    bare = max(bare_before, per_cpu_second(floor.issue, keys[:200]))
    note = f"{load.server_ms:.2f} ms of the server's CPU time each; {load.count} over {wire.CONNECTIONS} connections"
    return [
        Figure(
            name="issuances per core", value=load.per_server_second, unit="/s", floor=bare, floor_name=FLOOR_NAME,
            aim=Aim(0.07, at_least=True), note=note,
        ),
        Figure(name="issuances on the wall", value=load.per_second, unit="/s", floor=bare, note="client on the same machine"),
    ]  # fmt: skip
