"""Pure: makers' CA certificates, as an operator gives them and a tenant trusts them. Reads, bounds and sorts them.

Pure, and no judgement of a chip (`ek_trust`). Rule: certificates are kept as the bytes that came, never re-encoded.
"""

import base64
import binascii
import re
from collections.abc import Iterable

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID

from cloud.fabric.schemas import EkType

DEFAULT_EK_TYPE: EkType = "rsa2048"
"""The type that identifies where no root says otherwise: the one that every maker provides and certifies."""

TRUST_PEM_BYTES_MAX = 256 * 1024
TRUST_CERTIFICATES_MAX = 64
"""All roots and intermediates of all large makers together are about sixty certificates of 1-2 kB."""
CA_CERTIFICATE_BYTES_MAX = 8 * 1024

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for what it cannot read; it parses fields when they are asked for."""

CRITICAL_KNOWN = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
_CA_CRITICAL = CRITICAL_KNOWN | {ExtensionOID.NAME_CONSTRAINTS}
"""Extensions whose meaning is respected here or by the library's verifier, or binds nothing here (names, policies)."""


class TrustedRoot(msgspec.Struct, frozen=True):
    """A maker's root (DER) that a tenant trusts, the certificates that may stand between it and an EK certificate,
    and the type of EK that identifies this maker's chips."""

    certificate: bytes
    intermediates: tuple[bytes, ...] = ()
    ek_type: EkType = DEFAULT_EK_TYPE


class TrustFile(msgspec.Struct, frozen=True):
    """The certificates (DER, as they stood) of an operator's file."""

    roots: tuple[bytes, ...]
    intermediates: tuple[bytes, ...]


class TrustError(ValueError):
    """The operator's file holds no certificates that can be trusted; the text says why."""


def parse_trust_pem(pem: bytes) -> TrustFile:
    """The CA certificates of a PEM file: the self-signed ones are roots. Text between the blocks is left alone.

    Raises TrustError for a file without a certificate, with anything that is not a usable CA certificate, or too
    large. Dates are judged at use, since they pass. A file may bring intermediates alone, for roots that are there.
    """
    if len(pem) > TRUST_PEM_BYTES_MAX:
        raise TrustError(f"the file has more than {TRUST_PEM_BYTES_MAX} bytes")
    blocks = _PEM.findall(pem)
    if not blocks or pem.count(b"-----BEGIN ") != len(blocks):
        raise TrustError("the file holds no certificate, or something that is none")
    if len(blocks) > TRUST_CERTIFICATES_MAX:
        raise TrustError(f"the file has more than {TRUST_CERTIFICATES_MAX} certificates")
    roots: dict[bytes, None] = {}
    intermediates: dict[bytes, None] = {}
    for number, block in enumerate(blocks, start=1):
        try:
            der = _decode_block(block)
            (roots if is_root(der) else intermediates)[der] = None
        except TrustError as error:
            raise TrustError(f"certificate {number} of the file: {error}") from error
    return TrustFile(tuple(roots), tuple(intermediates))


def trusted_roots(certificates: Iterable[tuple[bytes, EkType]]) -> tuple[TrustedRoot, ...]:
    """A tenant's stored CA certificates as roots, each with all that are not roots as possible intermediates."""
    stored = [(der, ek_type, is_root(der)) for der, ek_type in certificates]
    intermediates = tuple(der for der, _, root in stored if not root)
    return tuple(TrustedRoot(der, intermediates, ek_type) for der, ek_type, root in stored if root)


def is_root(der: bytes) -> bool:
    """Whether a CA certificate is signed by its own key. Raises TrustError when it is no usable CA certificate."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
        unknown = unknown_critical(extensions, _CA_CRITICAL)
        usable = is_ca(extensions) and may_sign_certificates(extensions, default=True)
        self_issued = certificate.issuer == certificate.subject
        certificate.public_key()
    except UNREADABLE as error:
        raise TrustError("it cannot be read") from error
    if not usable:
        raise TrustError("it is not a certificate authority's")
    if unknown is not None:
        raise TrustError(f"it has the unknown critical extension {unknown}")
    return self_issued and _signed_by_itself(certificate)


def is_ca(extensions: x509.Extensions) -> bool:
    return any(isinstance(item.value, x509.BasicConstraints) and item.value.ca for item in extensions)


def may_sign_certificates(extensions: x509.Extensions, *, default: bool) -> bool:
    """What KeyUsage says of it; `default` where there is none."""
    for item in extensions:
        if isinstance(item.value, x509.KeyUsage):
            return item.value.key_cert_sign
    return default


def unknown_critical(extensions: x509.Extensions, known: frozenset[x509.ObjectIdentifier]) -> str | None:
    unknown = [item.oid.dotted_string for item in extensions if item.critical and item.oid not in known]
    return unknown[0] if unknown else None


def _decode_block(block: bytes) -> bytes:
    """The DER of one PEM block, as it stands: a certificate that is parsed and written again may be another."""
    try:
        der = base64.b64decode(b"".join(block.split()), validate=True)
    except binascii.Error as error:
        raise TrustError("a certificate in the file is damaged") from error
    if len(der) > CA_CERTIFICATE_BYTES_MAX:
        raise TrustError(f"a certificate has more than {CA_CERTIFICATE_BYTES_MAX} bytes")
    return der


def _signed_by_itself(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except InvalidSignature:
        return False
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustError("its signature cannot be checked") from error
    return True
