"""A PKCS#10 request (RFC 2986) taken apart: all that is kept of it is the public key.

Not here: who may have a certificate, and what stands in it (`profiles.py`). Rule: subject and attributes of a request
are never copied; a request that wishes for anything is refused rather than quietly given something else.
"""

import hashlib

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from cloud.breakwater.errors import CsrRefused
from protocol.limits import CSR_BYTES_MAX

NODE_CURVES: tuple[str, ...] = ("secp256r1",)
SERVICE_CURVES: tuple[str, ...] = ("secp256r1", "secp384r1")
_ECDSA = (
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512,
)


class RequestedKey(msgspec.Struct, frozen=True):
    """A public key whose owner has proved possession. `key_id` is RFC 7093 section 2 method 1 (SHA-256, 160 bits)."""

    public_key: ec.EllipticCurvePublicKey
    spki_der: bytes
    spki_sha256: str
    key_id: bytes


def key_identifier(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The subject key identifier of a key: the leftmost 160 bits of the SHA-256 of the subjectPublicKey bits."""
    point = public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return hashlib.sha256(point).digest()[:20]


def describe_key(public_key: ec.EllipticCurvePublicKey) -> RequestedKey:
    """What a certificate needs of a key."""
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return RequestedKey(public_key, spki, hashlib.sha256(spki).hexdigest(), key_identifier(public_key))


def open_csr(der: bytes, curves: tuple[str, ...]) -> RequestedKey:
    """The key of a request that proves its possession and asks for nothing else. Raises CsrRefused.

    1 size; 2 DER, and nothing after it (RFC 2986 section 4); 3 an EC key on an allowed curve, its point on the curve
    (SEC 1 section 3.2.2, checked by the parser) and uncompressed; 4 ECDSA with SHA-2 and a signature that verifies; 5 no
    attributes: no extension is wished for, no challenge password sent.
    """
    if not 0 < len(der) <= CSR_BYTES_MAX:
        raise CsrRefused(f"the request has {len(der)} bytes, {CSR_BYTES_MAX} is the most")
    try:
        request = x509.load_der_x509_csr(der)
        attributes = list(request.attributes)
    except (ValueError, x509.InvalidVersion) as error:
        raise CsrRefused("the request is not a PKCS#10 structure in DER") from error
    key = _checked_key(request, curves)
    if not der.endswith(b"\x00" + request.signature):  # the BIT STRING's count of unused bits, then the signature
        raise CsrRefused("the signature is not a whole number of bytes")
    _check_possession(request, key.public_key)
    if attributes:
        raise CsrRefused(f"the request wishes for something: {_name_wish(request)}; send none")
    return key


def _check_possession(request: x509.CertificateSigningRequest, public_key: ec.EllipticCurvePublicKey) -> None:
    try:
        algorithm = request.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise CsrRefused("the signature algorithm of the request is not known") from error
    is_ecdsa = request.signature_algorithm_oid in _ECDSA
    if algorithm is None or not is_ecdsa:
        raise CsrRefused("the request must be signed with ECDSA and SHA-256, SHA-384 or SHA-512")
    try:
        public_key.verify(request.signature, request.tbs_certrequest_bytes, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise CsrRefused("the signature does not prove possession of the key") from error


def _checked_key(request: x509.CertificateSigningRequest, curves: tuple[str, ...]) -> RequestedKey:
    try:
        public_key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CsrRefused("the key of the request cannot be read, or its point is not on the curve") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise CsrRefused("the key is not an EC key")
    if public_key.curve.name not in curves:
        raise CsrRefused(f"the key is on {public_key.curve.name}; allowed is {' or '.join(curves)}")
    key = describe_key(public_key)
    # A compressed point or explicit curve parameters would give one key two spellings.
    if key.spki_der not in request.tbs_certrequest_bytes:
        raise CsrRefused("the key is not in its one spelling (named curve, uncompressed point)")
    return key


def _name_wish(request: x509.CertificateSigningRequest) -> str:
    try:
        extensions = list(request.extensions)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return "extensions that cannot be read"
    if extensions:
        return "extension " + ", ".join(extension.oid.dotted_string for extension in extensions)
    return "attribute " + ", ".join(attribute.oid.dotted_string for attribute in request.attributes)
