"""Store: a service's own TLS identity, which is a key and a certificate chain in a `tls/` folder.

Rule: at every moment the chain on disk has its key on disk. A renewal with the same key is one rename. For a new key,
the key is written beside the old one first, then the chain is renamed, and then the key (`cloud/mtls/renewal.py`).
Whoever loads in between finds the key that fits the chain.
"""

from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.keyfile import KeyFileError, read_key, read_passphrase

KEY_FILE = "key.pem"
NEXT_KEY_FILE = "next-key.pem"
"""The key of a renewal under way. It becomes `KEY_FILE` once the chain is that of this key."""
CHAIN_FILE = "chain.pem"
JITTER = 0.1
"""Of half a life, to both sides: replicas and services that were made together do not renew together."""


class IdentityError(Exception):
    """Key or chain cannot be used, or the issuer's answer is not for this service."""


class Identity(msgspec.Struct, frozen=True):
    """Key, chain (leaf first) and the leaf itself."""

    key: ec.EllipticCurvePrivateKey
    chain_pem: bytes
    leaf: x509.Certificate

    @property
    def renew_at(self) -> datetime:
        """Half of the leaf's life, up to a tenth of that earlier or later. The serial decides, so it is always the same."""
        start, end = self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc
        shift = (self.leaf.serial_number % 2001 - 1000) / 1000 * JITTER
        return start + (end - start) / 2 * (1 + shift)


def load_identity(directory: Path, passphrase_file: Path) -> Identity:
    """Key and chain of a `tls/` folder. Raises IdentityError."""
    try:
        passphrase = read_passphrase(passphrase_file)
        key = read_key(directory / KEY_FILE, passphrase)
        chain_pem = (directory / CHAIN_FILE).read_bytes()
        leaf = x509.load_pem_x509_certificate(chain_pem)
        if leaf.public_key() != key.public_key() and (directory / NEXT_KEY_FILE).exists():
            key = read_key(directory / NEXT_KEY_FILE, passphrase)
    except (KeyFileError, OSError, ValueError) as error:
        raise IdentityError(f"cannot use the identity in {directory}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or leaf.public_key() != key.public_key():
        raise IdentityError(f"cannot use the identity in {directory}: key and certificate do not belong together")
    return Identity(key, chain_pem, leaf)


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request that proves possession and asks for nothing, DER."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)
