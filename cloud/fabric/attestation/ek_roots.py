"""Pure functions: read the CA certificates of TPM makers from an operator's file, and sort them into roots and others.

`ek_paths` builds paths of these certificates. Rules: a certificate is stored as the bytes that the operator sent, never
encoded again; a certificate that cannot be used does not keep the others of its file out.
"""

import base64
import binascii
import functools
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from protocol.endorsement import DEFAULT_EK_TYPE, EkType
from protocol.maker_certificates import (
    BASIC_CONSTRAINTS,
    CERTIFICATE_POLICIES,
    EKU_EK_CERTIFICATE,
    EXTENDED_KEY_USAGE,
    KEY_CERT_SIGN,
    KEY_USAGE,
    SUBJECT_ALTERNATIVE_NAME,
    CertificateUnreadable,
    MakerCertificate,
    SignatureUnverified,
    read_certificate,
    verify_signature,
)

TRUST_PEM_BYTES_MAX = 64 * 1024
"""The body limit of a request is as large. `cascade` sends a larger file in parts."""
TRUST_CERTIFICATES_MAX = 128
"""Most PEM blocks in one request. The shortest certificates of makers have 0.7 kB in PEM."""
CA_CERTIFICATE_BYTES_MAX = 8 * 1024
CAS_REMEMBERED = 1024
"""CA certificates whose parsed form is kept, about 5 kB each. Every activation needs those of its tenant."""

_BEGIN, _END, _DASHES = b"-----BEGIN ", b"-----END ", b"-----"
_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})
_LABEL_BYTES_MAX = 64
_ANY_PURPOSE = "2.5.29.37.0"

CRITICAL_KNOWN = frozenset(
    {SUBJECT_ALTERNATIVE_NAME, BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, CERTIFICATE_POLICIES}
)
"""Critical extensions that are accepted. This package enforces three of them. Names beside the subject and policies
have no effect here: no name and no policy is required of a path (RFC 5280, 6.1.1, any-policy). Name constraints and
policy constraints are not known, so a critical one refuses its certificate."""


class TrustedRoot(msgspec.Struct, frozen=True):
    """A maker's root (DER) that a tenant trusts.

    `intermediates` (DER) may be between the root and an EK certificate. `ek_type` is the type of EK that identifies the
    chips of this maker.
    """

    certificate: bytes
    intermediates: tuple[bytes, ...] = ()
    ek_type: EkType = DEFAULT_EK_TYPE


class RefusedBlock(msgspec.Struct, frozen=True):
    """A PEM block that is no usable CA certificate: its number and its first line in the file, both from 1, and why."""

    number: int
    line: int
    reason: str


class TrustFile(msgspec.Struct, frozen=True):
    """The certificates of an operator's file, in DER exactly as in the file, and the blocks that cannot be used.

    `places` has the number and the first line of the block of each certificate.
    """

    roots: tuple[bytes, ...]
    intermediates: tuple[bytes, ...]
    refused: tuple[RefusedBlock, ...] = ()
    places: Mapping[bytes, tuple[int, int]] = {}


class TrustError(ValueError):
    """The operator's file, or one certificate of it, cannot be used as trusted CA certificates. The text says why."""


def parse_trust_pem(pem: bytes) -> TrustFile:
    """Read the CA certificates of a PEM file. Self-signed ones are roots. Text between the PEM blocks is ignored.

    A file may contain only intermediates, for roots that the tenant trusts already. Dates are not checked here but
    when a chip is checked. Raises TrustError if the file is too large or has no PEM block.
    """
    if len(pem) > TRUST_PEM_BYTES_MAX:
        raise TrustError(f"the file has more than {TRUST_PEM_BYTES_MAX} bytes")
    roots: dict[bytes, None] = {}
    intermediates: dict[bytes, None] = {}
    refused: list[RefusedBlock] = []
    places: dict[bytes, tuple[int, int]] = {}
    count = 0
    for count, (line, label, body) in enumerate(_blocks(pem), start=1):
        if count > TRUST_CERTIFICATES_MAX:
            raise TrustError(f"the file has more than {TRUST_CERTIFICATES_MAX} certificates")
        try:
            der = _decode(label, body)
            (roots if is_root(der) else intermediates)[der] = None
            places.setdefault(der, (count, line))
        except TrustError as error:
            refused.append(RefusedBlock(count, line, str(error)))
    if not count:
        raise TrustError("the file contains no certificate in PEM")
    return TrustFile(tuple(roots), tuple(intermediates), tuple(refused), places)


def trusted_roots(certificates: Iterable[tuple[bytes, EkType]]) -> tuple[TrustedRoot, ...]:
    """A tenant's roots, each with all of the tenant's other CA certificates as intermediates.

    `certificates` are (DER, EK type). A certificate that an earlier release stored and this one cannot use is left out.
    """
    stored: list[tuple[bytes, EkType, bool]] = []
    for der, ek_type in certificates:
        try:
            stored.append((der, ek_type, is_root(der)))
        except TrustError:
            continue
    intermediates = tuple(der for der, _, root in stored if not root)
    return tuple(TrustedRoot(der, intermediates, ek_type) for der, ek_type, root in stored if root)


@functools.lru_cache(maxsize=CAS_REMEMBERED)
def read_ca(der: bytes) -> MakerCertificate:
    """As `read_new_ca`, for a certificate that an operator sent: its parsed form is kept for the next time."""
    return read_new_ca(der)


def read_new_ca(der: bytes) -> MakerCertificate:
    """Read a CA certificate of a maker, and check that it may issue certificates. Raises TrustError."""
    if len(der) > CA_CERTIFICATE_BYTES_MAX:
        raise TrustError(f"it has more than {CA_CERTIFICATE_BYTES_MAX} bytes")
    try:
        certificate = read_certificate(der)
    except CertificateUnreadable as error:
        raise TrustError(f"it cannot be read: {error}") from error
    unknown = certificate.critical_beyond(CRITICAL_KNOWN)
    if not certificate.ca or (certificate.usage is not None and KEY_CERT_SIGN not in certificate.usage):
        raise TrustError("it is not a CA certificate")
    if unknown is not None:
        raise TrustError(f"it has the unknown critical extension {unknown}")
    if certificate.purposes is not None and not certificate.purposes & {EKU_EK_CERTIFICATE, _ANY_PURPOSE}:
        raise TrustError("it is a CA for other certificates than those of endorsement keys (extended key usage)")
    return certificate


@functools.lru_cache(maxsize=CAS_REMEMBERED)
def is_root(der: bytes) -> bool:
    """Whether a CA certificate (DER) is signed by its own key. Raises TrustError for an unusable CA certificate.

    A root of a kind of signature that does not count any more, such as SHA-1, is a root if it names itself as its
    issuer: the operator trusts its key, and the signature over it proves nothing.
    """
    certificate = read_ca(der)
    if not certificate.self_issued:
        return False
    try:
        verify_signature(certificate, certificate.key)
    except SignatureUnverified:
        known = certificate.authority_key_id
        return certificate.signature_kind == _SHA1_WITH_RSA and known in (None, certificate.subject_key_id)
    return True


_SHA1_WITH_RSA = "1.2.840.113549.1.1.5"


def _blocks(pem: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """The PEM blocks: first line (from 1), label, and the text inside; None without the END line of the same label."""
    line, counted = 1, 0
    at = pem.find(_BEGIN)
    while at >= 0:
        line += pem.count(b"\n", counted, at)
        counted = at
        following = pem.find(_BEGIN, at + 1)
        block = pem[at : following if following >= 0 else len(pem)]
        label, dashes, rest = block[len(_BEGIN) :].partition(_DASHES)
        body, end, _ = rest.partition(_END + label + _DASHES)
        yield line, label, body if dashes and end and len(label) <= _LABEL_BYTES_MAX else None
        at = following


def _decode(label: bytes, body: bytes | None) -> bytes:
    """The DER inside one PEM block, decoded but not parsed: encoding a parsed certificate again could change it."""
    if body is None:
        raise TrustError("the PEM block is damaged or does not end")
    if label not in _LABELS:
        raise TrustError("the PEM block is not a certificate")
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise TrustError("the PEM block is damaged") from error
