"""Pure functions: check a chip's endorsement key (EK) and its certificate under a tenant's trust. Gives the tier.

The checks say which chip the evidence names. They do not show that the caller has the chip. The challenge of
`evidence.make_challenge` shows that. The time is an argument.

Rules:

- The EK identifies the chip. The EK public of the request must be equal, byte for byte, to a public built from the key
  *in the certificate* and the default template. So the check refuses another template, a changed `unique` field, and
  the certificate of another chip.
- A certificate that contradicts the evidence is refused, whatever tiers the tenant allows. A certificate that cannot be
  read, is outside its dates, or has no path to a root of the tenant, counts as none: it gives the tier `tpm`, if the
  tenant allows that tier.
- An EK that is allow-listed by its key needs no certificate, and a certificate beside it is not read. An EK that is
  allow-listed by the hash over its certificate needs that certificate, without a trusted issuer. Certificates of makers
  are often missing or unreadable, and the operator has named the key itself.
- A chip may send several EKs. The one that gives the highest tier identifies the chip; each is checked by all steps.
- Certificates are read leniently and never encoded again (`protocol.maker_certificates`).

Steps (TCG EK Credential Profile for TPM Family 2.0, v2.5: "profile"; RFC 5280; steps without a source are our own):

     1  the EK public is exactly one TPMT_PUBLIC (Library Part 2, 12.2.4)
     2  its type may identify a chip for this tenant
     3  its attributes are those of the default template (profile B.3, B.4)
     4  policy, algorithms and parameters are those of the default template (profile B.3, B.4)
     5  the certificate is readable X.509, with all fields that later steps use (profile 3.2)
     6  its key is the EK
     7  it is an EK certificate: no CA, no certificate signing, key usage of an EK, TCG EKU, no unknown critical
        extension (profile 3.2)
     8  it is within its validity (RFC 5280, 4.1.2.5)
     9  its issuer is among the certificates of the tenant or of the chip
    10  a path to one of the tenant's roots verifies (`ek_paths`; RFC 5280, 6.1)
    11  that root names this EK type
    12  the tenant allows the tier
"""

import contextlib
from collections.abc import Sequence
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cloud.fabric.attestation.ek_paths import NoPath, roots_above
from cloud.fabric.attestation.ek_roots import CRITICAL_KNOWN, TrustedRoot
from cloud.fabric.attestation.tiers import TierRefused, check_tier
from cloud.fabric.attestation.tpm_structures import (
    ADMIN_WITH_POLICY,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    USER_WITH_AUTH,
    EvidenceRefused,
    StructureError,
    attribute_fault,
    read_public,
)
from protocol.encoding import sha256_hex
from protocol.endorsement import DEFAULT_EK_TYPE, TEMPLATES, EkType, name_of
from protocol.evidence import EndorsementEvidence
from protocol.limits import EK_CERTIFICATE_BYTES_MAX, OTHER_ENDORSEMENTS_MAX
from protocol.maker_certificates import (
    DIGITAL_SIGNATURE,
    EKU_EK_CERTIFICATE,
    KEY_AGREEMENT,
    KEY_CERT_SIGN,
    KEY_ENCIPHERMENT,
    CertificateUnreadable,
    MakerCertificate,
    PublicKey,
    read_certificate,
)
from protocol.signed.statements import Tier

_LOW_RANGE = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT
_ATTRIBUTES: dict[EkType, int] = {
    "rsa2048": _LOW_RANGE,
    "ecc_p256": _LOW_RANGE,
    "ecc_p384": _LOW_RANGE | USER_WITH_AUTH,
}


class TenantTrust(msgspec.Struct, frozen=True):
    """The hardware that a tenant trusts. `allowed_ek_names` has identifiers as `protocol.endorsement.ek_identifier`.

    They need to have only those of the identifiers that `identifiers_of` the evidence returns.
    """

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
    """Check the evidence, and return its chip with the tier. `now` is aware UTC. Raises EvidenceRefused, steps 1-12.

    Of several EKs the first `attested` one is taken, else the first one of another tier. If all are refused, the
    refusal of an EK with a certificate is raised, and of these the one of the latest step.
    """
    offered = [(evidence.ek_public, evidence.ek_certificate)]
    offered += [(other.ek_public, other.ek_certificate) for other in evidence.others[:OTHER_ENDORSEMENTS_MAX]]
    lower: Chip | None = None
    refusals: list[tuple[bool, int, EvidenceRefused]] = []
    for ek_public, certificate in offered:
        try:
            chip = _check_endorsement(ek_public, certificate, evidence.intermediates, trust, now)
        except EvidenceRefused as refused:
            refusals.append((certificate is not None, refused.step, refused))
            continue
        if chip.tier == "attested":
            return chip
        lower = lower or chip
    if lower is not None:
        return lower
    raise max(refusals, key=lambda each: each[:2])[2]


def _check_endorsement(
    ek_public: bytes, ek_certificate: bytes | None, sent: Sequence[bytes], trust: TenantTrust, now: datetime
) -> Chip:
    """Check one EK with its certificate. `sent` are the CA certificates (DER) of the chip. Raises EvidenceRefused."""
    ek_type = _check_public(ek_public, trust)
    name = name_of(ek_public)
    if _is_allowed(ek_public, ek_certificate, ek_type, trust):
        return _admit(Chip(name, "attested", ek_type, ek_public), trust)
    chip = Chip(name, "tpm", ek_type, ek_public)
    if ek_certificate is None:
        return _admit_unvouched(chip, trust, 12, "the chip gave no endorsement certificate")
    try:
        certificate = _read_certificate(ek_certificate)
        if _built_public(certificate.key, ek_type) != ek_public:
            raise EvidenceRefused(
                6, "evidence_refused", "the endorsement certificate is for another key than the EK given"
            )
        _check_profile(certificate)
        _check_vouched(certificate, ek_type, sent, trust, now)
    except _Unvouched as unvouched:
        return _admit_unvouched(chip, trust, unvouched.step, unvouched.reason)
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
    try:
        check_tier(chip.tier, trust.tiers)
    except TierRefused as refused:
        raise EvidenceRefused(step, "tier_refused", f"{reason}, so {refused}" if reason else str(refused)) from refused
    return chip


def _admit_unvouched(chip: Chip, trust: TenantTrust, step: int, reason: str) -> Chip:
    """As `_admit`, for a chip that no trusted maker vouches for. Its EK must be of the default type.

    Another type identifies chips only under a maker's root that names it.
    """
    if chip.ek_type != DEFAULT_EK_TYPE:
        raise EvidenceRefused(step, "tier_refused", f"{reason}, and its EK is not of the type {DEFAULT_EK_TYPE}")
    return _admit(chip, trust, step, reason)


def identifiers_of(evidence: EndorsementEvidence) -> tuple[str, ...]:
    """The identifiers by which an allow-list can have an EK of the evidence, of the default type.

    A chip has an EK of each type, so it could appear as two chips if other types counted. The evidence is not checked.
    """
    offered = [(evidence.ek_public, evidence.ek_certificate)]
    offered += [(other.ek_public, other.ek_certificate) for other in evidence.others[:OTHER_ENDORSEMENTS_MAX]]
    default = TEMPLATES[DEFAULT_EK_TYPE].head
    found = [_identifiers(public, certificate) for public, certificate in offered if public.startswith(default)]
    return tuple(dict.fromkeys(each for identifiers in found for each in identifiers))


def _identifiers(ek_public: bytes, certificate: bytes | None) -> tuple[str, ...]:
    """The identifiers of an RSA EK: its name, and the hashes over its SubjectPublicKeyInfo and its certificate."""
    found = [name_of(ek_public).hex()]
    modulus = int.from_bytes(ek_public[len(TEMPLATES[DEFAULT_EK_TYPE].head) + 2 :], "big")
    with contextlib.suppress(ValueError):  # no maker vouches for these numbers, so they can be no key
        key = rsa.RSAPublicNumbers(65537, modulus).public_key()
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        found.append(f"spki:{sha256_hex(spki)}")
    if certificate is not None and len(certificate) <= EK_CERTIFICATE_BYTES_MAX:
        found.append(f"certificate:{sha256_hex(certificate)}")
    return tuple(found)


def _is_allowed(ek_public: bytes, certificate: bytes | None, ek_type: EkType, trust: TenantTrust) -> bool:
    """Whether the tenant's allow-list has this EK.

    Certificates are no secret, so the hash over one counts only if the certificate is for the EK (step 6).
    """
    if ek_type != DEFAULT_EK_TYPE:
        return False
    allowed = [each for each in _identifiers(ek_public, certificate) if each in trust.allowed_ek_names]
    if any(not each.startswith("certificate:") for each in allowed):
        return True
    if not allowed or certificate is None:
        return False
    try:
        return _built_public(read_certificate(certificate).key, ek_type) == ek_public
    except (CertificateUnreadable, EvidenceRefused):
        return False


def _check_public(raw: bytes, trust: TenantTrust) -> EkType:
    """Steps 1 to 4. Returns the type of the EK. Raises EvidenceRefused."""
    try:
        area = read_public(raw)
    except StructureError as error:
        raise EvidenceRefused(1, "evidence_refused", f"the EK public is not a TPMT_PUBLIC: {error}") from error
    found = [kind for kind, template in TEMPLATES.items() if (template.kind, template.size) == (area.kind, area.size)]
    identifying = {DEFAULT_EK_TYPE, *(root.ek_type for root in trust.roots)}
    if not found or found[0] not in identifying:
        wanted = " or ".join(sorted(identifying))
        given = f"the EK is of the type {found[0]}" if found else "the EK is of an unknown type"
        raise EvidenceRefused(
            2, "evidence_refused", f"{given}. The type that identifies a chip for this tenant is {wanted}"
        )
    template = TEMPLATES[found[0]]
    fault = attribute_fault(area.attributes, _ATTRIBUTES[found[0]])
    if fault is not None:
        raise EvidenceRefused(3, "evidence_refused", f"the EK's attributes are not the default template's: {fault}")
    unique_bytes = tuple(len(part) for part in area.unique)
    if not raw.startswith(template.head) or unique_bytes != template.unique_bytes:
        raise EvidenceRefused(4, "evidence_refused", "the EK was not made from the default template")
    return found[0]


def _read_certificate(raw: bytes) -> MakerCertificate:
    """Step 5. Raises _Unvouched."""
    if len(raw) > EK_CERTIFICATE_BYTES_MAX:
        raise _Unvouched(5, f"the endorsement certificate has more than {EK_CERTIFICATE_BYTES_MAX} bytes")
    try:
        return read_certificate(raw)
    except CertificateUnreadable as error:
        raise _Unvouched(5, f"the endorsement certificate cannot be read: {error}") from error


def _built_public(key: PublicKey, ek_type: EkType) -> bytes:
    """Step 6. Builds the `TPMT_PUBLIC` that the chip must have: the default template with the certificate's key."""
    template = TEMPLATES[ek_type]
    values: tuple[int, ...] = ()
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        values = (numbers.n,) if numbers.e == 65537 else ()
    else:
        point = key.public_numbers()
        values = (point.x, point.y)
    if len(values) != len(template.unique_bytes):
        raise EvidenceRefused(
            6, "evidence_refused", "the endorsement certificate is for another kind of key than the EK"
        )
    try:
        return template.public(*values)
    except OverflowError as error:
        raise EvidenceRefused(6, "evidence_refused", "the endorsement certificate's key has another size") from error


def _check_profile(certificate: MakerCertificate) -> None:
    """Step 7.

    Profile 3.2.x: an RSA EK has the usage keyEncipherment, an ECC EK keyAgreement. A certificate of a vTPM's signing
    key has digitalSignature only. A certificate without KeyUsage limits nothing.
    """
    unknown = certificate.critical_beyond(CRITICAL_KNOWN)
    usage = certificate.usage
    wanted = {KEY_ENCIPHERMENT} if isinstance(certificate.key, rsa.RSAPublicKey) else {KEY_AGREEMENT, KEY_ENCIPHERMENT}
    if unknown is not None:
        reason = f"has the unknown critical extension {unknown}"
    elif certificate.ca or (usage is not None and KEY_CERT_SIGN in usage):
        reason = "is a CA certificate"
    elif usage is not None and not usage & wanted:
        signs = "is for a signing key" if DIGITAL_SIGNATURE in usage else "is for another use"
        reason = f"{signs}: its key usage lacks keyEncipherment (RSA) or keyAgreement (ECC)"
    elif EKU_EK_CERTIFICATE not in (certificate.purposes or ()):
        reason = f"lacks the extended key usage {EKU_EK_CERTIFICATE}"
    else:
        return
    raise EvidenceRefused(7, "evidence_refused", f"the endorsement certificate {reason}")


def _check_vouched(
    certificate: MakerCertificate, ek_type: EkType, sent: Sequence[bytes], trust: TenantTrust, now: datetime
) -> None:
    """Steps 8 to 11. Raises _Unvouched, or EvidenceRefused for a chip whose maker's root names another EK type."""
    if not certificate.begins <= now <= certificate.ends:
        dates = f"from {certificate.begins:%Y-%m-%d} to {certificate.ends:%Y-%m-%d}"
        raise _Unvouched(8, f"the endorsement certificate is valid {dates} only")
    other_type = False
    try:
        for root in roots_above(certificate, trust.roots, sent, now):
            if root.ek_type == ek_type:
                return
            other_type = True
    except NoPath as fault:
        if other_type:
            raise EvidenceRefused(
                11, "evidence_refused", "chips of this maker are identified by an EK of another type"
            ) from fault
        if not fault.issuer_known:
            raise _Unvouched(
                9,
                "the endorsement certificate's issuer is not among the tenant's roots and intermediates: "
                f"{certificate.issuer_text[:_ISSUER_CHARS_MAX]}",
            ) from fault
        raise _Unvouched(
            10, f"no path from the endorsement certificate to a root of the tenant verifies ({fault.reason[:300]})"
        ) from fault


_ISSUER_CHARS_MAX = 200
"""Longest issuer in a refusal. The caller chooses its text."""
