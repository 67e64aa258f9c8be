"""Pure functions: paths, media types and body encodings of EST (RFC 7030, clarified by RFC 8951 and RFC 9908).

A body is base64 of DER, in one line or several; Content-Transfer-Encoding is ignored (RFC 8951 section 3.1).
Certificates are sent as certs-only CMS (SignedData without signatures, RFC 5652 section 5.2). CMS sets have no order,
so the reader finds the leaf by its key. No function here decides about a request or a certificate.
"""

import base64
import binascii
import re

from cryptography import x509
from cryptography.hazmat.primitives import serialization

PATH_CACERTS = "/.well-known/est/cacerts"
PATH_CSRATTRS = "/.well-known/est/csrattrs"
PATH_SIMPLEENROLL = "/.well-known/est/simpleenroll"
PATH_SIMPLEREENROLL = "/.well-known/est/simplereenroll"

TYPE_PKCS10 = "application/pkcs10"
TYPE_PKCS7 = "application/pkcs7-mime; smime-type=certs-only"
TYPE_CACERTS = "application/pkcs7-mime"
"""RFC 7030 section 4.1.3 names no parameter for `cacerts`. Some clients compare the whole text."""
TYPE_CSRATTRS = "application/csrattrs"

HEADER_REQUEST = "Idempotency-Key"
"""Header that names a request (`REQUEST_ID`). A repeat after a lost answer then gets the same certificate."""
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

CSRATTRS_DER = bytes.fromhex(
    "3021"  # CsrAttrs ::= SEQUENCE OF AttrOrOID (RFC 8951 section 3.2)
    "3015"  # the attribute: a key of the type id-ecPublicKey,
    "06072a8648ce3d0201"
    "310a06082a8648ce3d030107"  # on the curve secp256r1 (RFC 9908 section 3.2);
    "06082a8648ce3d040302"  # the OID: sign with ecdsa-with-SHA256
)
"""Attributes that a certificate request should have. It asks for no name, because the issuer has recorded the names."""

CERTIFICATES_MAX = 48
"""Most certificates in one answer. Two classes of CAs in two generations with their cross-certificates are ten. The bound
is far above, so that a service can renew although old CAs are kept; `BASE64_BYTES_MAX` holds this many."""
BASE64_BYTES_MAX = 64 * 1024
_SPACE = b" \t\r\n"


class EstError(ValueError):
    """The body does not have the form of RFC 7030. The text names the part."""


def media_type(content_type: str) -> str:
    """The media type in a Content-Type header, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def encode_base64(der: bytes) -> bytes:
    """DER as an EST body: base64 in lines of 64 characters."""
    text = base64.b64encode(der)
    return b"\n".join(text[at : at + 64] for at in range(0, len(text), 64)) + b"\n"


def decode_base64(body: bytes) -> bytes:
    """The DER in an EST body. Raises EstError if the body is empty, too large, or has more than base64 and white space."""
    if len(body) > BASE64_BYTES_MAX:
        raise EstError(f"the body is larger than {BASE64_BYTES_MAX} bytes")
    try:
        der = base64.b64decode(body.translate(None, _SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EstError("the body is not base64 of DER (PEM without its first and last line is)") from error
    if not der:
        raise EstError("the body is empty")
    return der


def encode_certs_only(certificates: tuple[bytes, ...]) -> bytes:
    """Certificates in DER as the body of an answer."""
    loaded = [x509.load_der_x509_certificate(der) for der in certificates]
    # Imported here: the module loads Python's mail parser, which would slow the start of the agent.
    from cryptography.hazmat.primitives.serialization import pkcs7

    return encode_base64(pkcs7.serialize_certificates(loaded, serialization.Encoding.DER))


def decode_certs_only(body: bytes) -> tuple[bytes, ...]:
    """The certificates of an answer in DER, in any order. Raises EstError."""
    from cryptography.hazmat.primitives.serialization import pkcs7  # as in `encode_certs_only`

    try:
        found = pkcs7.load_der_pkcs7_certificates(decode_base64(body))
    except EstError:
        raise
    except Exception as error:  # the library promises no type for what a hostile body does to it
        raise EstError("the body is not a certs-only CMS structure") from error
    if not 0 < len(found) <= CERTIFICATES_MAX:
        raise EstError(f"the body has {len(found)} certificates, not 1 to {CERTIFICATES_MAX}")
    return tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in found)


def leaf_first(certificates: tuple[bytes, ...], spki_der: bytes) -> tuple[bytes, ...]:
    """The certificates with the leaf first; the others keep their order. All are DER.

    `spki_der` is the SubjectPublicKeyInfo of the leaf. Raises EstError if the key has no certificate or several.
    """
    leaves = [der for der in certificates if _spki(der) == spki_der]
    if len(leaves) != 1:
        raise EstError(f"the answer has {len(leaves)} certificates of the key, not one")
    return (leaves[0], *(der for der in certificates if der != leaves[0]))


def _spki(der: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError:
        return b""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
