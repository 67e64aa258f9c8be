"""Store: a service's own TLS identity, which is a key and a certificate chain in a `tls/` folder.

Rule: at every moment, the key of the chain on disk is on disk too. A renewal with the same key is one rename. A renewal
with a new key takes three steps (`cloud/mtls/renewal.py`): write the new key beside the old one, rename the chain,
rename the key. A process that loads the identity between two steps finds the key that fits the chain.
"""

from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.keyfile import KeyFileError, read_key, read_passphrase
from cloud.crypto.validity import outside

KEY_FILE = "key.pem"
NEXT_KEY_FILE = "next-key.pem"
"""The key of an unfinished renewal. It becomes `KEY_FILE` once the chain is for this key."""
CHAIN_FILE = "chain.pem"
JITTER = 0.1
"""Share of half a life by which a renewal is made earlier or later. So replicas and services that were made together
renew at different times."""


class IdentityError(Exception):
    """Key or chain cannot be used, or the issuer's answer is not for this service."""


class Identity(msgspec.Struct, frozen=True):
    """A key, its chain (leaf first), and the chain's leaf."""

    key: ec.EllipticCurvePrivateKey
    chain_pem: bytes
    leaf: x509.Certificate

    @property
    def renew_at(self) -> datetime:
        """The time of renewal: half of the leaf's life, up to a tenth of that earlier or later.

        The leaf's serial decides how much, so the time never changes for a leaf.
        """
        start, end = self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc
        shift = (self.leaf.serial_number % 2001 - 1000) / 1000 * JITTER
        return start + (end - start) / 2 * (1 + shift)

    def outside(self, now: datetime) -> str:
        """Return why the leaf is not valid now, as the predicate of a sentence. Return "" if it is valid."""
        return outside(self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc, now)

    def is_due(self, now: datetime) -> bool:
        """Whether the leaf must be replaced: at `renew_at`, and when it begins in the future."""
        return now >= self.renew_at or now < self.leaf.not_valid_before_utc


def load_identity(directory: Path, passphrase_file: Path) -> Identity:
    """Load key and chain of a `tls/` folder. Raises IdentityError."""
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
    """Return a CSR (DER) that proves possession of the key. It names no subject and requests no extension."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)
