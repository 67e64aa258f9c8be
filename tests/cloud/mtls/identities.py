"""Fabric's identity on the disk of a running Breakwater's host, and cross-certificates."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cloud.mtls.identity import Identity, load_identity
from tests.cloud.breakwater.live import Live
from tests.cloud.pki import Authority


def folder(live: Live) -> Path:
    return live.home / "fabric" / "tls"


def identity(live: Live) -> Identity:
    return load_identity(folder(live), live.home / "passphrase")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def crossed(subject: Authority, by: Authority, life: timedelta = timedelta(days=1)) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject.certificate.subject)
        .issuer_name(by.certificate.subject)
        .public_key(subject.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(by.key, hashes.SHA256())
