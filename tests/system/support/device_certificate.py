"""Helper: the device certificate of a machine, and its replacement by an expired one."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.keyfile import read_key, read_passphrase
from lab.cloud import Cloud
from lab.machine import Machine
from node.disk.identity import IdentityStore
from tests.system.support.wire import nodes_ca_pem


def device(machine: Machine) -> x509.Certificate:
    """The machine's stored device certificate."""
    identity = IdentityStore(machine.state).current()
    assert identity is not None
    return x509.load_der_x509_certificate(identity.chain[0])


def expire(cloud: Cloud, machine: Machine) -> x509.Certificate:
    """Replace the machine's device certificate by an expired one from the same CA, as if the machine had been off."""
    passphrase = read_passphrase(cloud.directory / "secrets" / "passphrase")
    key = read_key(cloud.directory / "breakwater" / "keys" / "nodes-ca.key.pem", passphrase)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(nodes_ca_pem(cloud).read_bytes())
    good, now = device(machine), datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=issuer.subject,
        subject_name=good.subject,
        public_key=good.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=90),
        not_valid_after=now - timedelta(days=1),
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    over = builder.sign(key, hashes.SHA256())
    identities = IdentityStore(machine.state)
    current = identities.current()
    assert current is not None
    identities.replace_device_chain(
        current.generation, (over.public_bytes(serialization.Encoding.DER), *current.chain[1:])
    )
    return over
