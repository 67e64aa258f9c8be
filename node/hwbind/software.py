"""Adapter: a node key without a TPM (tier `software`): an ECDSA P-256 key in the state directory, in a file of mode 0600.

A copy of the state directory has the key. So the key proves a node only together with the machine's fingerprint, and the
dates of the tier are short. The operator's policy and the operator's command choose this tier; the agent never falls
back to it.

The functions do no I/O. `node.hwbind.keys` calls them for a key of this kind, so the exchanges are the same for both
kinds. `NoTpm` does the work of an exchange without a TPM.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

T = TypeVar("T")


class KeyUnreadable(ValueError):
    """The bytes are no P-256 key."""


def make() -> tuple[bytes, bytes]:
    """A new key: SubjectPublicKeyInfo and PKCS#8, both in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _spki(key.public_key()), private


def public_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a SubjectPublicKeyInfo in DER. Raises KeyUnreadable."""
    try:
        key = serialization.load_der_public_key(spki)
    except ValueError as error:
        raise KeyUnreadable("the public key is not in DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyUnreadable("the public key is not a P-256 key")
    return key


def private_key(pkcs8: bytes, spki: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in DER, which must belong to the public one. Raises KeyUnreadable."""
    try:
        key = serialization.load_der_private_key(pkcs8, None)
    except (ValueError, TypeError) as error:
        raise KeyUnreadable("the private key is not in DER") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or _spki(key.public_key()) != spki:
        raise KeyUnreadable("the private key does not belong to the public key")
    return key


def sign_digest(pkcs8: bytes, spki: bytes, digest: bytes) -> bytes:
    """Sign a SHA-256 digest. Returns DER (ECDSA-Sig-Value, RFC 3279 section 2.2.3). Raises KeyUnreadable."""
    return private_key(pkcs8, spki).sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))


def certificate_request(pkcs8: bytes, spki: bytes) -> bytes:
    """A PKCS#10 request (RFC 2986) in DER with an empty subject. Raises KeyUnreadable."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(private_key(pkcs8, spki), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class NoTpm:
    """Does the work of `Tpm.run` and `Tpm.call` with a software key. The work gets no context.

    `mode` is the mode of the settings, as `Tpm.mode`.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode

    async def run(self, work: Callable[[Any], T]) -> T:
        """Do the work in a worker thread."""
        return await trio.to_thread.run_sync(work, None, abandon_on_cancel=True)

    def call(self, work: Callable[[Any], T]) -> T:
        """Do the work in this thread."""
        return work(None)
