"""Pure: a PKCS#10 request (RFC 2986) is taken apart; only its public key is kept.

`profiles.py` decides what stands in a certificate. Rule: subject and attributes of a request are never copied. One
that wishes for anything else than the profile gives is refused, not quietly answered with something else. A wish for
exactly what the profile gives is allowed, since common clients cannot leave it out.
"""

import hashlib
from collections import Counter

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from cloud.breakwater.errors import CsrRefused
from cloud.crypto.der import bit_string, integer, octet_string, oid, sequence, tlv
from protocol.limits import CSR_BYTES_MAX

NODE_CURVES: tuple[str, ...] = ("secp256r1",)
SERVICE_CURVES: tuple[str, ...] = ("secp256r1", "secp384r1")
_ECDSA = (
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512,
)


_VERSION_1 = integer(0)
_TRUE = bytes.fromhex("0101ff")
_ALTERNATIVE_NAME = oid("2.5.29.17")
_EXTENSION_REQUEST_OID = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
_EXTENSION_REQUEST = oid("1.2.840.113549.1.9.14")


class RequestedKey(msgspec.Struct, frozen=True):
    """A public key whose owner has proved possession. `key_id` is RFC 7093 section 2 method 1 (SHA-256, 160 bits)."""

    public_key: ec.EllipticCurvePublicKey
    spki_der: bytes
    spki_sha256: str
    key_id: bytes


def key_identifier(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The subject key identifier of a key: the leftmost 160 bits of the SHA-256 of the subjectPublicKey bits."""
    return _leftmost(public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint))


def _leftmost(point: bytes) -> bytes:
    return hashlib.sha256(point).digest()[:20]


def describe_key(public_key: ec.EllipticCurvePublicKey) -> RequestedKey:
    """What a certificate needs of a key."""
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    point = spki[-1 - 2 * ((public_key.key_size + 7) // 8) :]  # it ends with the uncompressed point
    return RequestedKey(public_key, spki, hashlib.sha256(spki).hexdigest(), _leftmost(point))


def open_csr(
    der: bytes,
    curves: tuple[str, ...],
    *,
    subject: x509.Name | None = None,
    names: x509.SubjectAlternativeName | None = None,
) -> RequestedKey:
    """The key of a request that proves its possession and asks for nothing but what it would get anyway.

    1 size; 2 a PKCS#10 structure, and nothing after it (RFC 2986 section 4); 3 an EC key on an allowed curve, its point
    on the curve (SEC 1 section 3.2.2, checked by the parser) and uncompressed; 4 ECDSA with SHA-2 and a signature that
    verifies; 5 a subject that is empty or the profile's own `subject`; 6 no attributes, or one extensionRequest with
    nothing in it but a subjectAltName of the very `names` of the profile, in any order; 7 all of it in the one encoding
    that DER allows: what was read, written again, is the request.

    Raises CsrRefused naming the check.
    """
    if not 0 < len(der) <= CSR_BYTES_MAX:
        raise CsrRefused(f"the request has {len(der)} bytes, {CSR_BYTES_MAX} is the most")
    try:
        request = x509.load_der_x509_csr(der)
        asked = request.subject
        attributes = list(request.attributes)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise CsrRefused("the request is not a PKCS#10 structure in DER") from error
    key = _checked_key(request, curves)
    _check_possession(request, key.public_key)
    if asked.rdns and (subject is None or _values(asked) != _values(subject)):
        raise CsrRefused("the subject is another than the profile's; send it empty")
    wish = _wish(request, names) if attributes else b""
    info = sequence(_VERSION_1, asked.public_bytes(), key.spki_der, tlv(0xA0, wish))
    if info != request.tbs_certrequest_bytes or der != _whole(request):
        raise CsrRefused("the request is not in the one encoding of DER")
    return key


def _values(name: x509.Name) -> list[list[tuple[str, object]]]:
    # The type of string may differ: some clients write a PrintableString where others write UTF8String.
    return [[(attribute.oid.dotted_string, attribute.value) for attribute in rdn] for rdn in name.rdns]


def _wish(request: x509.CertificateSigningRequest, names: x509.SubjectAlternativeName | None) -> bytes:
    """The one attribute that is let through, as DER has it. Raises CsrRefused for every other."""
    try:
        extensions = list(request.extensions)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CsrRefused("the request wishes for extensions that cannot be read") from error
    others = [found.oid.dotted_string for found in request.attributes if found.oid != _EXTENSION_REQUEST_OID]
    if others:
        raise CsrRefused(f"the request wishes for something: attribute {', '.join(others)}; send none")
    strange = [found.oid.dotted_string for found in extensions if found.oid != ExtensionOID.SUBJECT_ALTERNATIVE_NAME]
    if strange or not extensions or names is None:
        wished = ", ".join(found.oid.dotted_string for found in extensions) or "none"
        raise CsrRefused(f"the request wishes for something: extension {wished}; send none")
    (found,) = extensions
    value = found.value
    same = isinstance(value, x509.SubjectAlternativeName) and Counter(value) == Counter(names)
    if not same:
        raise CsrRefused("the subjectAltName (extension 2.5.29.17) is not the profile's; send none")
    critical = _TRUE if found.critical else b""
    extension = sequence(_ALTERNATIVE_NAME, critical, octet_string(value.public_bytes()))
    return sequence(_EXTENSION_REQUEST, tlv(0x31, sequence(extension)))


def _whole(request: x509.CertificateSigningRequest) -> bytes:
    """The request written again, with the signature as (r, s) in the fewest bytes."""
    signature = encode_dss_signature(*decode_dss_signature(request.signature))
    algorithm = sequence(oid(request.signature_algorithm_oid.dotted_string))
    return sequence(request.tbs_certrequest_bytes, algorithm, bit_string(signature))


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
    except (InvalidSignature, ValueError) as error:
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
