"""Floor of an issuance: the work that every issuer has to do, in a bare loop with the library's builders.

The loop parses the request, checks its proof of possession, and builds and signs the certificate. The service does
more: TLS, HTTP, guard, lint, and two writes: a record before the signature and the certificate after it.
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.mtls.identity import make_csr
from node.clock import utc_now
from protocol.ids import NodeId, NodeSpiffeId, TenantId, make_id

FLOOR_SECONDS = 1.5
TRUST_DOMAIN = "cascade.internal"
FLOOR_NAME = "parse, check, build and sign in a bare loop on one core"


def new_id(prefix: Literal["ten", "node"]) -> str:
    return make_id(prefix, int(utc_now().timestamp() * 1000), os.urandom(10))


def new_keys(count: int) -> list[ec.EllipticCurvePrivateKey]:
    return [ec.generate_private_key(ec.SECP256R1()) for _ in range(count)]


def requests_for_keys(count: int) -> list[bytes]:
    """CSRs, each for a new key."""
    return [make_csr(key) for key in new_keys(count)]


def self_signed(common_name: str, key: ec.EllipticCurvePrivateKey, life: timedelta) -> x509.CertificateBuilder:
    """A builder of a certificate that the key signs for itself. It is valid from an hour ago."""
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]), utc_now()
    serial = x509.random_serial_number()
    return x509.CertificateBuilder(name, name, key.public_key(), serial, now - timedelta(hours=1), now + life)


class BareIssuer:
    """The name of an installation's issuing CA, a key of the same kind, and `cryptography`."""

    def __init__(self, directory: Path) -> None:
        path = directory / "breakwater" / "certs" / "nodes-ca.pem"
        ca = x509.load_pem_x509_certificate(path.read_bytes())
        self._name = ca.subject
        self._key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._spiffe = str(NodeSpiffeId(TRUST_DOMAIN, TenantId(new_id("ten")), NodeId(new_id("node"))))

    def issue(self, csr: bytes) -> bytes:
        """Make a certificate with the fields and extensions of a session certificate."""
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


def per_cpu_second(work: Callable[[bytes], object], inputs: list[bytes], seconds: float = FLOOR_SECONDS) -> float:
    """How often `work` runs in a second of CPU time. The inputs are used in turn, for about the given seconds."""
    count, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        for one in inputs:
            work(one)
        count += len(inputs)
    return count / (time.process_time() - began)
