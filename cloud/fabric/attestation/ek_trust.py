"""Pure functions: check a chip's endorsement key (EK) and its certificate under a tenant's trust. Gives the tier.

The checks say which chip the evidence names. They do not show that the caller has the chip. The challenge of
`evidence.make_challenge` shows that. The time is an argument.

Rules:

- The EK identifies the chip. The EK public of the request must be equal, byte for byte, to a public built from the key
  *in the certificate* and the default template. So the check refuses another template, a changed `unique` field, and
  the certificate of another chip.
- A certificate that contradicts the evidence is refused, whatever tiers the tenant allows. A certificate that is
  outside its dates, or has no path to a root of the tenant, gives the tier `tpm`, if the tenant allows that tier.
- An allow-listed EK needs no certificate, and a certificate beside it is not read. Certificates of makers are often
  missing or unreadable, and the operator has named the key itself.
- Certificates are never encoded again. A path consists of the tenant's certificates only; the node sends the leaf.

Steps (TCG EK Credential Profile for TPM Family 2.0, v2.5: "profile"; RFC 5280; steps without a source are our own):

     1  the EK public is exactly one TPMT_PUBLIC (Library Part 2, 12.2.4)
     2  its type may identify a chip for this tenant
     3  its attributes are those of the default template (profile B.3, B.4)
     4  policy, algorithms and parameters are those of the default template (profile B.3, B.4)
     5  the certificate is readable X.509, with all fields that later steps use (profile 3.2)
     6  its key is the EK
     7  it is an EK certificate: no CA, no certificate signing, TCG EKU, no unknown critical extension (profile 3.2)
     8  it is within its validity (RFC 5280, 4.1.2.5)
     9  the tenant trusts its issuer
    10  a path to one of the tenant's roots verifies (RFC 5280, 6.1)
    11  that root names this EK type
    12  the tenant allows the tier
"""

import warnings
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from cloud.fabric.attestation.ek_roots import (
    CRITICAL_KNOWN,
    DEFAULT_EK_TYPE,
    UNREADABLE,
    TrustedRoot,
    is_ca,
    may_sign_certificates,
    unknown_critical,
)
from cloud.fabric.attestation.tpm_structures import (
    ADMIN_WITH_POLICY,
    ALG_ECC,
    ALG_RSA,
    CURVE_P256,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    EvidenceRefused,
    StructureError,
    attribute_fault,
    object_name,
    read_public,
)
from cloud.fabric.schemas import EkType
from protocol.evidence import EndorsementEvidence
from protocol.limits import EK_CERTIFICATE_BYTES_MAX
from protocol.signed.statements import Tier

EKU_EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate"""

INTERMEDIATES_MAX = 4
"""Most certificates between leaf and root. Makers use none to two."""


class _Template(msgspec.Struct, frozen=True):
    """A default template: the bytes of `TPMT_PUBLIC` up to `unique`, and the size of each part of `unique`."""

    kind: int
    size: int
    head: bytes
    unique_bytes: tuple[int, ...]


_ATTRIBUTES = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT

# Templates L-1 and L-2 of the profile. The bytes are: type, SHA-256, attributes, PolicySecret(TPM_RH_ENDORSEMENT);
# AES-128-CFB, no scheme; then key bits and exponent 0 (which means 65537), or curve and no KDF.
_TEMPLATES: dict[EkType, _Template] = {
    "rsa2048": _Template(
        ALG_RSA,
        2048,
        bytes.fromhex(
            "0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
            "0006008000430010080000000000"
        ),
        (256,),
    ),
    "ecc_p256": _Template(
        ALG_ECC,
        CURVE_P256,
        bytes.fromhex(
            "0023000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
            "000600800043001000030010"
        ),
        (32, 32),
    ),
}


class _Certificate(msgspec.Struct, frozen=True):
    """An EK certificate whose fields could be read."""

    whole: x509.Certificate
    issuer: x509.Name
    begins: datetime
    ends: datetime
    key: CertificatePublicKeyTypes
    extensions: x509.Extensions


class TenantTrust(msgspec.Struct, frozen=True):
    """The hardware that a tenant trusts. `allowed_ek_names`: lower-case hex of an EK's TPM name (000b and SHA-256)."""

    roots: tuple[TrustedRoot, ...]
    allowed_ek_names: frozenset[str]
    tiers: frozenset[Tier]


class Chip(msgspec.Struct, frozen=True):
    """A checked chip. `ek_name` is the TPM name of its EK. Challenges are encrypted to `ek_public` (`TPMT_PUBLIC`)."""

    ek_name: bytes
    tier: Tier
    ek_type: EkType
    ek_public: bytes


def check_chip(evidence: EndorsementEvidence, trust: TenantTrust, now: datetime) -> Chip:
    """Check the evidence, and return its chip with the tier. `now` is aware UTC. Raises EvidenceRefused, steps 1-12."""
    ek_type = _check_public(evidence.ek_public, trust)
    name = object_name(evidence.ek_public)
    if _is_allowed(name, ek_type, trust):
        return _admit(Chip(name, "attested", ek_type, evidence.ek_public), trust)
    if evidence.ek_certificate is None:
        return _admit_unvouched(
            Chip(name, "tpm", ek_type, evidence.ek_public), trust, 12, "the chip gave no endorsement certificate"
        )
    certificate = _read_certificate(evidence.ek_certificate)
    ek_public = _built_public(certificate.key, ek_type)
    if ek_public != evidence.ek_public:
        raise EvidenceRefused(6, "evidence_refused", "the endorsement certificate is for another key than the EK given")
    _check_profile(certificate.extensions)
    try:
        _check_vouched(certificate, ek_type, trust, now)
    except _Unvouched as unvouched:
        return _admit_unvouched(Chip(name, "tpm", ek_type, ek_public), trust, unvouched.step, unvouched.reason)
    return _admit(Chip(name, "attested", ek_type, ek_public), trust)


class _Unvouched(Exception):
    """No trusted maker vouches for the chip. Raised and caught inside this module only."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason


def _admit(chip: Chip, trust: TenantTrust, step: int = 12, reason: str = "") -> Chip:
    """Return the chip if the tenant allows its tier. Raises EvidenceRefused.

    `step` and `reason` say why the chip did not reach a higher tier.
    """
    if chip.tier not in trust.tiers:
        allowed = f"the tenant does not allow the tier {chip.tier}"
        raise EvidenceRefused(step, "tier_refused", f"{reason}, and {allowed}" if reason else allowed)
    return chip


def _admit_unvouched(chip: Chip, trust: TenantTrust, step: int, reason: str) -> Chip:
    """As `_admit`, for a chip that no trusted maker vouches for. Its EK must be of the default type.

    Another type identifies chips only under a maker's root that names it.
    """
    if chip.ek_type != DEFAULT_EK_TYPE:
        raise EvidenceRefused(step, "tier_refused", f"{reason}, and its EK is not of the type {DEFAULT_EK_TYPE}")
    return _admit(chip, trust, step, reason)


def _is_allowed(name: bytes, ek_type: EkType, trust: TenantTrust) -> bool:
    """Whether the tenant's allow-list has this EK.

    Only EKs of the default type count. A chip has an EK of each type, so it could otherwise appear as two chips.
    """
    return ek_type == DEFAULT_EK_TYPE and name.hex() in trust.allowed_ek_names


def _check_public(raw: bytes, trust: TenantTrust) -> EkType:
    """Steps 1 to 4. Returns the type of the EK. Raises EvidenceRefused."""
    try:
        area = read_public(raw)
    except StructureError as error:
        raise EvidenceRefused(1, "evidence_refused", f"the EK public is not a TPMT_PUBLIC: {error}") from error
    found = [kind for kind, template in _TEMPLATES.items() if (template.kind, template.size) == (area.kind, area.size)]
    identifying = {DEFAULT_EK_TYPE, *(root.ek_type for root in trust.roots)}
    if not found or found[0] not in identifying:
        wanted = " or ".join(sorted(identifying))
        raise EvidenceRefused(2, "evidence_refused", f"the EK is not of the type that identifies a chip ({wanted})")
    template = _TEMPLATES[found[0]]
    fault = attribute_fault(area.attributes, _ATTRIBUTES)
    if fault is not None:
        raise EvidenceRefused(3, "evidence_refused", f"the EK's attributes are not the default template's: {fault}")
    unique_bytes = tuple(len(part) for part in area.unique)
    if not raw.startswith(template.head) or unique_bytes != template.unique_bytes:
        raise EvidenceRefused(4, "evidence_refused", "the EK was not made from the default template")
    return found[0]


def _read_certificate(raw: bytes) -> _Certificate:
    """Step 5. Reads every field that later steps use, because the library parses a field only when it is read."""
    if len(raw) > EK_CERTIFICATE_BYTES_MAX:
        raise EvidenceRefused(
            5, "evidence_refused", f"the endorsement certificate has more than {EK_CERTIFICATE_BYTES_MAX} bytes"
        )
    try:
        with warnings.catch_warnings():
            # The library only warns of a serial number that is not positive. Such a certificate is refused here.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            whole = x509.load_der_x509_certificate(raw)
            if whole.serial_number <= 0:
                raise ValueError("the serial number is not positive (RFC 5280 section 4.1.2.2)")
        return _Certificate(
            whole=whole,
            issuer=whole.issuer,
            begins=whole.not_valid_before_utc,
            ends=whole.not_valid_after_utc,
            key=whole.public_key(),
            extensions=whole.extensions,
        )
    except UNREADABLE as error:
        raise EvidenceRefused(5, "evidence_refused", "the endorsement certificate cannot be read") from error


def _built_public(key: CertificatePublicKeyTypes, ek_type: EkType) -> bytes:
    """Step 6. Builds the `TPMT_PUBLIC` that the chip must have: the default template with the certificate's key."""
    template = _TEMPLATES[ek_type]
    values: tuple[int, ...] = ()
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e == 65537:
        values = (key.public_numbers().n,)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        values = (key.public_numbers().x, key.public_numbers().y)
    if len(values) != len(template.unique_bytes):
        raise EvidenceRefused(
            6, "evidence_refused", "the endorsement certificate is for another kind of key than the EK"
        )
    built = template.head
    for value, count in zip(values, template.unique_bytes, strict=True):
        if value.bit_length() > count * 8:
            raise EvidenceRefused(6, "evidence_refused", "the endorsement certificate's key has another size")
        built += count.to_bytes(2, "big") + value.to_bytes(count, "big")
    return built


def _check_profile(extensions: x509.Extensions) -> None:
    """Step 7."""
    unknown = unknown_critical(extensions, CRITICAL_KNOWN)
    usages = [item.value for item in extensions if isinstance(item.value, x509.ExtendedKeyUsage)]
    if unknown is not None:
        reason = f"has the unknown critical extension {unknown}"
    elif is_ca(extensions) or may_sign_certificates(extensions, default=False):
        reason = "is a CA certificate"
    elif not any(EKU_EK_CERTIFICATE in usage for usage in usages):
        reason = f"lacks the extended key usage {EKU_EK_CERTIFICATE.dotted_string}"
    else:
        return
    raise EvidenceRefused(7, "evidence_refused", f"the endorsement certificate {reason}")


def _check_vouched(certificate: _Certificate, ek_type: EkType, trust: TenantTrust, now: datetime) -> None:
    """Steps 8 to 11. Raises _Unvouched, or EvidenceRefused for a chip whose maker's root names another EK type."""
    if not certificate.begins <= now <= certificate.ends:
        dates = f"from {certificate.begins:%Y-%m-%d} to {certificate.ends:%Y-%m-%d}"
        raise _Unvouched(8, f"the endorsement certificate is valid {dates} only")
    known = [root for root in trust.roots if _has_issuer(root, certificate.issuer)]
    if not known:
        raise _Unvouched(9, "the endorsement certificate's issuer is not among the tenant's roots and intermediates")
    faults = []
    for root in known:
        fault = _path_fault(certificate.whole, root, now)
        if fault is None and root.ek_type == ek_type:
            return
        faults.append(fault)
    if None in faults:
        raise EvidenceRefused(11, "evidence_refused", "chips of this maker are identified by an EK of another type")
    raise _Unvouched(10, f"no path from the endorsement certificate to a root of the tenant verifies ({faults[0]})")


def _has_issuer(root: TrustedRoot, issuer: x509.Name) -> bool:
    return any(x509.load_der_x509_certificate(der).subject == issuer for der in (root.certificate, *root.intermediates))


def _path_fault(certificate: x509.Certificate, root: TrustedRoot, now: datetime) -> str | None:
    """Step 10. Returns why the library's verifier finds no path to `root`, or None if it finds one.

    The library checks signatures, dates, names and path lengths. Its default policies for extensions are those of the
    web; no EK certificate meets them. So step 7 checks the extensions of the leaf. The extensions of CAs are checked
    here, and when an operator adds the CA (`ek_roots`).
    """
    ca_policy = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _check_ca_constraints)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_ca_usage)
    )
    verifier = (
        PolicyBuilder()
        .store(Store([x509.load_der_x509_certificate(root.certificate)]))
        .time(now)
        .max_chain_depth(INTERMEDIATES_MAX)
        .extension_policies(ee_policy=ExtensionPolicy.permit_all(), ca_policy=ca_policy)
        .build_client_verifier()
    )
    try:
        verifier.verify(certificate, [x509.load_der_x509_certificate(der) for der in root.intermediates])
    except (VerificationError, *UNREADABLE) as error:
        return str(error)
    return None


def _check_ca_constraints(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("an issuer is not a CA")


def _check_ca_usage(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer may not sign certificates")
