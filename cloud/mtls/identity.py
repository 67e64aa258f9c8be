"""A service's own TLS identity: key and chain on disk, and their renewal over EST while connections live on.

At half of a certificate's life, or when it is told to, the service asks Breakwater (Breakwater asks itself) for the
next one, checks it, replaces the files and reloads its TLS contexts: new connections get the new certificate, open ones
keep theirs. Rule: at every moment the chain on disk has its key on disk. A renewal with the same key is one rename; a
new key is written beside the old one first, the chain is renamed, and then the key: whoever loads in between finds the
key that fits. It decides nothing about names: those are recorded at the issuer.
"""

import logging
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.issued import is_issued_by, issuer_among
from cloud.crypto.keyfile import KeyFileError, read_key, read_passphrase
from cloud.mtls.peer import PeerTrust
from protocol.messages.sessions import Certificate

log = logging.getLogger("cascade.identity")

KEY_FILE = "key.pem"
NEXT_KEY_FILE = "next-key.pem"
"""The key of a renewal under way; becomes `KEY_FILE` once the chain is that of this key."""
CHAIN_FILE = "chain.pem"
JITTER = 0.1
"""Of half a life, to both sides: replicas and services that were made together do not renew together."""
CROSSES_MAX = 4
"""Cross certificates in a chain; two roots that sign each other are two."""


class IdentityError(Exception):
    """Key or chain cannot be used, or the issuer's answer is not for this service."""


class Identity(msgspec.Struct, frozen=True):
    """Key, chain (leaf first) and the leaf itself."""

    key: ec.EllipticCurvePrivateKey
    chain_pem: bytes
    leaf: x509.Certificate

    @property
    def renew_at(self) -> datetime:
        """Half of the leaf's life, and up to a tenth of that earlier or later: by its serial, so ever the same."""
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


def chain_to_pem(certificate: Certificate) -> bytes:
    """The chain as PEM, leaf first. Raises IdentityError."""
    try:
        loaded = [x509.load_der_x509_certificate(der) for der in certificate.certificate_chain]
    except ValueError as error:
        raise IdentityError("the issuer's answer is not a chain of certificates") from error
    return _to_pem(loaded)


def build_chain(leaf: x509.Certificate, cas: tuple[bytes, ...], trust: PeerTrust, now: datetime) -> bytes:
    """The chain to serve, PEM: the leaf, its issuing CA, and the cross certificates above that.

    The issuing CA comes out of `trust`; of `cas`, which are the issuer's word, only what carries this chain to another
    root is taken: not the roots themselves, which whoever believes them has, and by believed roots only, so that
    nobody is led to a root that is believed no more. Raises IdentityError: not an issuing CA of services that we
    believe.
    """
    issuing = issuer_among(leaf, trust.service_issuers)
    if issuing is None:
        raise IdentityError("the new certificate was not issued by a CA of services that is believed")
    try:
        offered = [x509.load_der_x509_certificate(der) for der in cas]
        crosses = [ca for ca in offered if ca.subject != ca.issuer and now < ca.not_valid_after_utc]
        crosses = [ca for ca in crosses if is_trusted_cross(ca, trust)]
    except ValueError as error:
        raise IdentityError("the issuer's answer is not a list of certificates") from error
    chain, below = [leaf, issuing], [issuing]
    while below and len(chain) < 2 + CROSSES_MAX:
        seen = {ca.subject for ca in chain}
        below = [ca for ca in crosses if ca.issuer not in seen and any(is_issued_by(one, ca) for one in below)]
        chain += below
    return _to_pem(chain[: 2 + CROSSES_MAX])


def is_trusted_cross(cross: x509.Certificate, trust: PeerTrust) -> bool:
    """Whether a trusted root signed this cross-certificate; True where the trusted roots are not known."""
    return trust.roots is None or issuer_among(cross, trust.roots) is not None


def _to_pem(chain: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
