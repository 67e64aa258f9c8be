"""Pure functions: read the CA certificates of TPM makers from an operator's file, and sort them into roots and others.

`ek_trust` checks chips against these certificates. Rule: a certificate is stored as the bytes that the operator sent,
never encoded again.
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
"""The type of EK that identifies a chip, unless a maker's root names another type. Every maker certifies this type."""

TRUST_PEM_BYTES_MAX = 256 * 1024
TRUST_CERTIFICATES_MAX = 64
"""Most certificates in one file. All large makers together have about sixty roots and intermediates of 1-2 kB."""
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
"""Errors of `cryptography` for unreadable input. It parses most fields when they are read, so any read can fail."""

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
"""Critical extensions that are accepted. This package or the library's verifier enforces them, or they have no effect
here (names, policies)."""


class TrustedRoot(msgspec.Struct, frozen=True):
    """A maker's root (DER) that a tenant trusts.

    `intermediates` (DER) may be between the root and an EK certificate. `ek_type` is the type of EK that identifies the
    chips of this maker.
    """

    certificate: bytes
    intermediates: tuple[bytes, ...] = ()
    ek_type: EkType = DEFAULT_EK_TYPE


class TrustFile(msgspec.Struct, frozen=True):
    """The certificates of an operator's file, in DER exactly as in the file."""

    roots: tuple[bytes, ...]
    intermediates: tuple[bytes, ...]


class TrustError(ValueError):
    """The operator's file cannot be used as trusted CA certificates. The text says why."""


def parse_trust_pem(pem: bytes) -> TrustFile:
    """Read the CA certificates of a PEM file. Self-signed ones are roots. Text between the PEM blocks is ignored.

    A file may contain only intermediates, for roots that the tenant trusts already. Dates are not checked here but
    when a chip is checked. Raises TrustError if the file is too large, contains no certificate, or contains anything
    except usable CA certificates.
    """
    if len(pem) > TRUST_PEM_BYTES_MAX:
        raise TrustError(f"the file has more than {TRUST_PEM_BYTES_MAX} bytes")
    blocks = _PEM.findall(pem)
    if not blocks or pem.count(b"-----BEGIN ") != len(blocks):
        raise TrustError("the file contains no certificate, or a PEM block that is not a certificate")
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
    """A tenant's roots, each with all of the tenant's other CA certificates as intermediates.

    `certificates` are (DER, EK type). Raises TrustError for an unusable certificate.
    """
    stored = [(der, ek_type, is_root(der)) for der, ek_type in certificates]
    intermediates = tuple(der for der, _, root in stored if not root)
    return tuple(TrustedRoot(der, intermediates, ek_type) for der, ek_type, root in stored if root)


def is_root(der: bytes) -> bool:
    """Whether a CA certificate (DER) is signed by its own key. Raises TrustError for an unusable CA certificate."""
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
        raise TrustError("it is not a CA certificate")
    if unknown is not None:
        raise TrustError(f"it has the unknown critical extension {unknown}")
    return self_issued and _signed_by_itself(certificate)


def is_ca(extensions: x509.Extensions) -> bool:
    """Whether BasicConstraints says that the certificate is a CA's."""
    return any(isinstance(item.value, x509.BasicConstraints) and item.value.ca for item in extensions)


def may_sign_certificates(extensions: x509.Extensions, *, default: bool) -> bool:
    """Whether KeyUsage allows to sign certificates; `default` if there is no KeyUsage."""
    for item in extensions:
        if isinstance(item.value, x509.KeyUsage):
            return item.value.key_cert_sign
    return default


def unknown_critical(extensions: x509.Extensions, known: frozenset[x509.ObjectIdentifier]) -> str | None:
    """The OID of the first critical extension that is not in `known`; None if there is none."""
    unknown = [item.oid.dotted_string for item in extensions if item.critical and item.oid not in known]
    return unknown[0] if unknown else None


def _decode_block(block: bytes) -> bytes:
    """The DER inside one PEM block, decoded but not parsed: encoding a parsed certificate again could change it."""
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
