"""Pure functions: checks of a certificate that was issued to this node, before it is stored or used.

`check_chain` has numbered steps, each with its own reason. It raises and never returns a bool. The times are arguments.
"""

from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from node.errors import VerificationFailed
from node.exits import Exit
from protocol.ids import EKU_DEVICE, EKU_DEVICE_ACCEPTED, IdError, NodeId, NodeSpiffeId, TenantId, parse_generation
from protocol.limits import CLOCK_SKEW
from protocol.signed.trust import X509Bundle

EKU_SESSION = ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string

CHAIN_CERTIFICATES_MAX = 4
"""Leaf, issuer, and the cross certificates of a root rotation. A server that trusts only the old root needs these."""
STORED_CERTIFICATES = 2
"""Leaf and issuer of a device chain. The certificates above the issuer are in the trust bundle."""
STEP_ISSUER = 2
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""The errors of the library for bytes that are no usable certificate."""


def is_readable(der: bytes) -> bool:
    """Whether the bytes are one certificate, with a key and extensions that can be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        list(certificate.extensions)
    except (*UNREADABLE, TypeError):
        return False
    return True


def usable_chain(chain: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """A checked chain (DER, leaf first) without the certificates after the issuer that cannot be read.

    These certificates help other servers to verify the node. A node works without them.
    """
    return chain[:STORED_CERTIFICATES] + tuple(der for der in chain[STORED_CERTIFICATES:] if is_readable(der))


class CertificateRejected(VerificationFailed):
    """The certificate is not the requested one. `step` is the step of `check_chain` that failed."""

    code = "certificate_rejected"
    next = "Nothing was stored. Try again. If the error stays, report it to the operator of the cloud."

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"cannot accept the certificate: {reason} (step {step})")
        self.step = step


class CertificateOutOfTime(CertificateRejected):
    """The certificate is new, and its dates do not fit trusted time."""

    exit = Exit.CLOCK
    code = "clock_wrong"
    next = (
        "Nothing was stored. Set the clock of this machine (see `timedatectl`), and start the agent again. If the error "
        "stays, activate the machine again with a new activation file, which begins trusted time again."
    )


class Window(NamedTuple):
    """The times at which the dates of certificates are judged (`node.licensing.trusted_time`).

    A certificate must not have ended at `low`, and must have begun at `high`. `high` is None before the first signed
    time of the boot. A machine without a battery then does not know how late it is. A certificate from a trusted issuer
    that begins later only shows that more time has passed.
    """

    low: datetime
    high: datetime | None = None


def out_of_dates(certificate: x509.Certificate, window: Window) -> str:
    """Why a certificate is outside of its dates (RFC 5280 section 4.1.2.5), as a part of a sentence; "" if it is not.

    `notBefore` may be later than `high` by the clock skew.
    """
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if window.high is not None and begins - CLOCK_SKEW > window.high:
        return f"it begins at {begins:%Y-%m-%d %H:%M} UTC, and the cloud's time is {window.high:%Y-%m-%d %H:%M} UTC"
    if ends <= window.low:
        return f"it ended at {ends:%Y-%m-%d %H:%M} UTC, and trusted time is {window.low:%Y-%m-%d %H:%M} UTC or later"
    return ""


def issued_by(certificate: x509.Certificate, issuers: tuple[x509.Certificate, ...]) -> bool:
    """Whether one of `issuers` signed the certificate and is named as its issuer."""
    for issuer in issuers:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (*UNREADABLE, TypeError, InvalidSignature):
            continue
        return True
    return False


def _usages(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value
    except x509.ExtensionNotFound:
        return []
    return [usage.dotted_string for usage in extension] if isinstance(extension, x509.ExtendedKeyUsage) else []


def _generation(certificate: x509.Certificate) -> int:
    values = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    if len(values) != 1:
        raise CertificateRejected(4, "the subject has not exactly one serialNumber")
    try:
        return parse_generation(str(values[0].value))
    except IdError as error:
        raise CertificateRejected(4, "the serialNumber is not a generation") from error


def is_certificate_of(
    der: bytes, *, spiffe: NodeSpiffeId, generation: int, public_key: ec.EllipticCurvePublicKey
) -> bool:
    """Whether a stored device certificate (DER) names this node, generation and key.

    This check ensures that the key in the TPM is the certified key, not a key that somebody put in its place. Issuer
    and dates are not checked again, because the later fate of a certificate never changes the licence.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        same_generation = _generation(certificate) == generation
        key = certificate.public_key()
    except Exception:  # noqa: BLE001 (every error of a parser means the same; not all are documented)
        return False
    return same_generation and key == public_key and _names_only(names, spiffe)


def _names_only(names: x509.ExtensionType, spiffe: NodeSpiffeId) -> bool:
    """Whether the node's SPIFFE id is the only SAN."""
    found = list(names) if isinstance(names, x509.SubjectAlternativeName) else []
    return found == [x509.UniformResourceIdentifier(str(spiffe))]


def chain_of(leaf: bytes, bundle: X509Bundle) -> tuple[bytes, ...]:
    """A leaf (DER) and the published issuing CA of nodes that signed it. Raises CertificateRejected, step 1 or 2."""
    try:
        certificate = x509.load_der_x509_certificate(leaf)
    except UNREADABLE as error:
        raise CertificateRejected(1, "it cannot be read") from error
    for der in filter(is_readable, bundle.node_issuers):
        if issued_by(certificate, (x509.load_der_x509_certificate(der),)):
            return leaf, der
    raise CertificateRejected(STEP_ISSUER, "no published issuing CA of nodes issued it")


def check_chain(
    chain: tuple[bytes, ...],
    bundle: X509Bundle,
    *,
    spiffe: NodeSpiffeId,
    generation: int,
    usage: str,
    public_key: ec.EllipticCurvePublicKey,
    window: Window,
) -> x509.Certificate:
    """Check a device or session chain (DER, leaf first), and return its leaf.

    Leaf and issuer are checked. The certificates after the issuer are for servers, and are not checked.

    1. The chain has two to four certificates, and leaf and issuer can be read.
    2. The issuer is a published issuing CA of nodes, and signed the leaf (RFC 5280 section 6.1.3).
    3. The node's SPIFFE id is the only SAN (X509-SVID section 2).
    4. The subject's serialNumber is the generation.
    5. `usage` (an OID) is the only extended key usage. For `EKU_DEVICE`, one of `EKU_DEVICE_ACCEPTED` is.
    6. The public key is ours.
    7. The leaf is no CA certificate.
    8. The leaf is within its dates (`out_of_dates`).

    Raises CertificateRejected with the number of the failed step; in step 8 CertificateOutOfTime for a session
    certificate, which is always new.
    """
    if not 2 <= len(chain) <= CHAIN_CERTIFICATES_MAX:
        raise CertificateRejected(1, f"the chain does not have 2 to {CHAIN_CERTIFICATES_MAX} certificates")
    try:
        return _checked(chain, bundle, _Expected(spiffe, generation, usage, public_key), window)
    except CertificateRejected:
        raise
    except Exception as error:
        # The library parses a certificate late, part by part, and not all errors of its parsers are documented.
        raise CertificateRejected(1, "it cannot be read") from error


class _Expected(NamedTuple):
    """What `check_chain` compares the leaf with."""

    spiffe: NodeSpiffeId
    generation: int
    usage: str
    public_key: ec.EllipticCurvePublicKey


def _checked(chain: tuple[bytes, ...], bundle: X509Bundle, expected: _Expected, window: Window) -> x509.Certificate:
    """Steps 1 to 8 of `check_chain`."""
    try:
        leaf, issuer = (x509.load_der_x509_certificate(der) for der in chain[:2])
        leaf_key = leaf.public_key()
        names = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except (*UNREADABLE, x509.ExtensionNotFound) as error:
        raise CertificateRejected(1, "it cannot be read, or has no subject alternative name") from error
    if chain[1] not in bundle.node_issuers or not issued_by(leaf, (issuer,)):
        raise CertificateRejected(STEP_ISSUER, "no published issuing CA of nodes issued it")
    if not _names_only(names, expected.spiffe):
        raise CertificateRejected(3, f"its only name is not {expected.spiffe}")
    if _generation(leaf) != expected.generation:
        raise CertificateRejected(4, f"it is not for generation {expected.generation}")
    accepted = EKU_DEVICE_ACCEPTED if expected.usage == EKU_DEVICE else (expected.usage,)
    if _usages(leaf) not in [[usage] for usage in accepted]:
        raise CertificateRejected(5, f"its only extended key usage is not {expected.usage}")
    if leaf_key != expected.public_key:
        raise CertificateRejected(6, "it is for another key")
    try:
        constraints = leaf.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value
    except x509.ExtensionNotFound:
        constraints = None
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        raise CertificateRejected(7, "it is a CA certificate")
    outside = out_of_dates(leaf, window)
    if outside:
        raise (CertificateOutOfTime if expected.usage == EKU_SESSION else CertificateRejected)(8, outside)
    return leaf


def check_device_chain(
    chain: tuple[bytes, ...],
    bundle: X509Bundle,
    *,
    tenant: TenantId,
    node: NodeId,
    generation: int,
    public_key: ec.EllipticCurvePublicKey,
    window: Window,
) -> tuple[bytes, ...]:
    """Check a device chain with `check_chain`, and return the part to store: leaf and issuer.

    Raises CertificateRejected.
    """
    check_chain(
        chain,
        bundle,
        spiffe=NodeSpiffeId(bundle.trust_domain, tenant, node),
        generation=generation,
        usage=EKU_DEVICE,
        public_key=public_key,
        window=window,
    )
    return chain[:STORED_CERTIFICATES]
