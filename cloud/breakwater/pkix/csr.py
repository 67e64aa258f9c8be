"""Pure functions: parse a PKCS#10 request (RFC 2986) and return its public key.

Rules: Only the public key of a request reaches a certificate; `profiles.py` decides every other field. A request that
asks for a name or extension other than the profile's is refused; it does not get a certificate with other content. A
request may repeat what the profile gives (`keytool` and `certtool` cannot leave out all extensions). Such an extension
is checked and then dropped.
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
_EXTENSION_REQUEST_OID = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
_EXTENSION_REQUEST = oid("1.2.840.113549.1.9.14")
KEY_USAGES: tuple[str, ...] = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
"""The names of the bits of keyUsage (RFC 5280 section 4.2.1.3) in the library, without `encipher_only` and
`decipher_only`. The library gives these two only with `key_agreement`."""
_EXTENSION_NAMES = {
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: "subjectAltName",
    ExtensionOID.BASIC_CONSTRAINTS: "basicConstraints",
    ExtensionOID.KEY_USAGE: "keyUsage",
    ExtensionOID.EXTENDED_KEY_USAGE: "extKeyUsage",
}
"""Names of extensions in refusals (RFC 5280 section 4.2.1)."""


class RequestedKey(msgspec.Struct, frozen=True):
    """A public key in the forms that a certificate needs.

    `open_csr` returns it after the requester has proved possession of the private key. `spki_der` is the
    SubjectPublicKeyInfo, `spki_sha256` its SHA-256 in hex. `key_id` follows RFC 7093 section 2 method 1: 20 bytes.
    """

    public_key: ec.EllipticCurvePublicKey
    spki_der: bytes
    spki_sha256: str
    key_id: bytes


def key_identifier(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the subject key identifier (20 bytes): the leftmost 160 bits of the SHA-256 of the subjectPublicKey."""
    return _leftmost(public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint))


def _leftmost(point: bytes) -> bytes:
    return hashlib.sha256(point).digest()[:20]


def describe_key(public_key: ec.EllipticCurvePublicKey) -> RequestedKey:
    """Return a key with its encodings and hashes. The caller has to know that the requester possesses the key."""
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    point = spki[-1 - 2 * ((public_key.key_size + 7) // 8) :]  # the SPKI ends with the uncompressed point
    return RequestedKey(public_key, spki, hashlib.sha256(spki).hexdigest(), _leftmost(point))


def open_csr(
    der: bytes,
    curves: tuple[str, ...],
    *,
    subject: x509.Name | None = None,
    names: x509.SubjectAlternativeName | None = None,
    usages: tuple[x509.ObjectIdentifier, ...] | None = None,
) -> RequestedKey:
    """Verify a PKCS#10 request in DER and return its key.

    `subject` and `names` are the subject and the subjectAltName that the profile gives; None if it gives none. `usages`
    are the extended key usages of a profile for end entities; None for other profiles. Checks:

    1. The request has 1 to `CSR_BYTES_MAX` bytes.
    2. It is a PKCS#10 structure with no bytes after it (RFC 2986 section 4).
    3. The key is an EC key on one of `curves`. Its point is on the curve (SEC 1 section 3.2.2, checked by the parser)
       and uncompressed.
    4. The signature is ECDSA with SHA-2 and verifies under the key.
    5. The subject is empty or equals `subject`.
    6. There are no attributes, or one extensionRequest. It holds at least one extension, and only extensions that
       `_require_restated` accepts.
    7. The request is DER: the parsed values, encoded again, give the same bytes.

    Raises:
        CsrRefused: the text names the check that failed.
    """
    if not 0 < len(der) <= CSR_BYTES_MAX:
        raise CsrRefused(f"the request has {len(der)} bytes; at most {CSR_BYTES_MAX} are allowed")
    try:
        request = x509.load_der_x509_csr(der)
        asked = request.subject
        attributes = list(request.attributes)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise CsrRefused("the request is not a PKCS#10 structure in DER") from error
    key = _checked_key(request, curves)
    _check_possession(request, key.public_key)
    if asked.rdns and (subject is None or _values(asked) != _values(subject)):
        raise CsrRefused("the subject differs from the profile's; send an empty subject")
    requested = _requested_extensions(request, names, usages) if attributes else b""
    info = sequence(_VERSION_1, asked.public_bytes(), key.spki_der, tlv(0xA0, requested))
    if info != request.tbs_certrequest_bytes or der != _whole(request):
        raise CsrRefused("the request is not encoded in DER")
    return key


def _values(name: x509.Name) -> list[list[tuple[str, object]]]:
    # Types of strings are not compared: some clients write a PrintableString where others write a UTF8String.
    return [[(attribute.oid.dotted_string, attribute.value) for attribute in rdn] for rdn in name.rdns]


def _requested_extensions(
    request: x509.CertificateSigningRequest,
    names: x509.SubjectAlternativeName | None,
    usages: tuple[x509.ObjectIdentifier, ...] | None,
) -> bytes:
    """Return the only allowed attribute in DER: a request for extensions that the profile gives.

    Raises CsrRefused for every other attribute or extension.
    """
    try:
        extensions = list(request.extensions)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CsrRefused("the request asks for extensions that cannot be parsed") from error
    others = [found.oid.dotted_string for found in request.attributes if found.oid != _EXTENSION_REQUEST_OID]
    if others:
        raise CsrRefused(f"the request contains the attribute {', '.join(others)}; send no attributes")
    if not extensions:
        raise CsrRefused("the request asks for the extension none; send no extensions")
    for found in extensions:
        _require_restated(found.value, names, usages)
    return sequence(_EXTENSION_REQUEST, tlv(0x31, sequence(*map(_encoded, extensions))))


def _encoded(extension: x509.Extension[x509.ExtensionType]) -> bytes:
    critical = _TRUE if extension.critical else b""
    return sequence(oid(extension.oid.dotted_string), critical, octet_string(extension.value.public_bytes()))


def _require_restated(
    value: x509.ExtensionType,
    names: x509.SubjectAlternativeName | None,
    usages: tuple[x509.ObjectIdentifier, ...] | None,
) -> None:
    """Check that a requested extension only repeats the profile. Raises CsrRefused, whose text names the extension.

    - subjectKeyIdentifier: every value, because the issuer computes the identifier.
    - subjectAltName: exactly the profile's names, in any order.
    - For an end entity: basicConstraints with CA:FALSE, keyUsage with at most digitalSignature, and extKeyUsage with
      usages of the profile only.
    """
    if isinstance(value, x509.SubjectKeyIdentifier):
        return
    name = _EXTENSION_NAMES.get(value.oid, "")
    asked = f"the request asks for the extension {value.oid.dotted_string}{name and f' ({name})'}"
    if isinstance(value, x509.SubjectAlternativeName) and names is not None:
        if Counter(value) != Counter(names):
            raise CsrRefused(f"{asked} with other names than the profile's; send none")
        return
    excess = ""
    if usages is not None and isinstance(value, x509.BasicConstraints):
        excess = "CA:TRUE" if value.ca else ""
    elif usages is not None and isinstance(value, x509.KeyUsage):
        excess = ", ".join(bit for bit in KEY_USAGES if bit != "digital_signature" and getattr(value, bit))
    elif usages is not None and isinstance(value, x509.ExtendedKeyUsage):
        excess = ", ".join(usage.dotted_string for usage in value if usage not in usages)
    else:
        raise CsrRefused(f"{asked}; send no extensions")
    if excess:
        raise CsrRefused(f"{asked} with {excess}; the profile does not give this")


def _whole(request: x509.CertificateSigningRequest) -> bytes:
    """Encode the request again, with the signature's r and s as minimal DER integers."""
    signature = encode_dss_signature(*decode_dss_signature(request.signature))
    algorithm = sequence(oid(request.signature_algorithm_oid.dotted_string))
    return sequence(request.tbs_certrequest_bytes, algorithm, bit_string(signature))


def _check_possession(request: x509.CertificateSigningRequest, public_key: ec.EllipticCurvePublicKey) -> None:
    try:
        algorithm = request.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise CsrRefused("the signature algorithm of the request is unknown") from error
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
        raise CsrRefused("the key of the request cannot be parsed, or its point is not on the curve") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise CsrRefused("the key is not an EC key")
    if public_key.curve.name not in curves:
        raise CsrRefused(f"the key is on {public_key.curve.name}; allowed: {' or '.join(curves)}")
    key = describe_key(public_key)
    # A compressed point or explicit curve parameters would give the same key another SPKI and another hash.
    if key.spki_der not in request.tbs_certrequest_bytes:
        raise CsrRefused("the key is not encoded with a named curve and an uncompressed point")
    return key
