"""`cloud.fabric.attestation.ek_trust`: each mutation of evidence or trust is refused at its step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss.utils import NoSuchIndex, create_ek_template, ek_template

from cloud.fabric.attestation.ek_roots import TrustedRoot
from cloud.fabric.attestation.ek_trust import TenantTrust, check_chip
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from protocol.endorsement import TEMPLATES, EkType, name_of
from protocol.evidence import EndorsementEvidence, OtherEndorsement
from protocol.limits import EK_CERTIFICATE_BYTES_MAX, TPM_STRUCTURE_BYTES_MAX
from protocol.maker_certificates import read_certificate
from tests.simulators import forged_evidence as forged
from tests.simulators import odd_certificates as odd
from tests.simulators.forged_evidence import NOW, maker

ATTESTED_ONLY = frozenset({"attested"})
WITH_TPM = frozenset({"attested", "tpm"})


def trust_in(*makers: forged.Maker, **changes: object) -> TenantTrust:
    roots = tuple(TrustedRoot(maker.root.der, (maker.intermediate.der,)) for maker in makers)
    trust = TenantTrust(roots=roots, allowed_ek_names=frozenset(), tiers=frozenset({"attested"}))
    return TenantTrust(**{name: changes.get(name, getattr(trust, name)) for name in trust.__struct_fields__})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """Evidence and trust that pass every check until a test changes them."""

    evidence: EndorsementEvidence
    trust: TenantTrust

    def public(self, change: Callable[[bytes], bytes]) -> "Case":
        return self.with_evidence(ek_public=change(self.evidence.ek_public))

    def with_evidence(self, **changes: bytes | None) -> "Case":
        old = self.evidence
        return replace(
            self,
            evidence=EndorsementEvidence(
                ek_public=changes.get("ek_public") or old.ek_public,
                ak_public=old.ak_public,
                ek_certificate=changes.get("ek_certificate", old.ek_certificate),
            ),
        )

    def certified(self, issue: Callable[..., bytes] | None = None, **options: object) -> "Case":
        certify = issue or maker().certify
        return self.with_evidence(ek_certificate=certify(EK.public_key(), **options))  # type: ignore[arg-type]

    def certified_by(self, other: forged.Maker) -> "Case":
        """The ECC EK with a certificate from another CA."""
        return self.with_evidence(ek_certificate=other.certify(ECC_EK.public_key()))

    def trusting(self, *makers: forged.Maker, **changes: object) -> "Case":
        return replace(self, trust=trust_in(*makers, **changes))

    def rooted(self, root: forged.Authority, *intermediates: forged.Authority) -> "Case":
        trusted = TrustedRoot(root.der, tuple(each.der for each in intermediates))
        return replace(self, trust=trust_in(roots=(trusted,)))


EK = forged.rsa2048("ek")
ECC_EK = forged.p256("ek")
P384_EK = ec.generate_private_key(ec.SECP384R1())
STRANGER = forged.rsa2048("stranger")


def right() -> Case:
    return Case(forged.endorsement(), trust_in(maker()))


def ecc(key: ec.EllipticCurvePrivateKey) -> Callable[[Case], Case]:
    """A certified ECC EK of the same maker."""
    return lambda case: case.with_evidence(
        ek_public=forged.ecc_ek_public(key.public_key()), ek_certificate=maker().certify(key.public_key())
    )


def under(not_before: timedelta, not_after: timedelta, *, root: bool) -> Callable[[Case], Case]:
    """An EK certificate under a root, or an intermediate, with other dates."""

    def change(case: Case) -> Case:
        dates = {"not_before": NOW + not_before, "not_after": NOW + not_after}
        top = forged.authority("Dated Root", **(dates if root else {}))  # type: ignore[arg-type]
        later = {"not_before": NOW - timedelta(420)}
        issuing = forged.authority("Dated Issuing", top, **(later if root else dates))  # type: ignore[arg-type]
        return case.certified(issuer=issuing).rooted(top, issuing)

    return change


def below(**options: object) -> Callable[[Case], Case]:
    """An EK certificate under an intermediate with other constraints."""

    def change(case: Case) -> Case:
        issuing = forged.authority("Issuing", maker().root, **options)  # type: ignore[arg-type]
        return case.certified(issuer=issuing).rooted(maker().root, issuing)

    return change


def two_below_one(case: Case) -> Case:
    top = forged.authority("Short Root", path_length=0)
    issuing = forged.authority("Short Issuing", top)
    return case.certified(issuer=issuing).rooted(top, issuing)


def namesake(case: Case) -> Case:
    """A certificate from an attacker's CA that has the names of the maker's CA."""
    return case.certified(issuer=forged.Maker.new("Maker").intermediate)


REFUSED: dict[str, tuple[Callable[[Case], Case], int, str]] = {
    "empty public": (lambda c: replace(c, evidence=EndorsementEvidence(b"", b"")), 1, "evidence_refused"),
    "trailing byte": (lambda c: c.public(lambda raw: raw + b"\0"), 1, "evidence_refused"),
    "cut short": (lambda c: c.public(lambda raw: raw[:-1]), 1, "evidence_refused"),
    "TPM2B instead": (lambda c: c.public(forged.sized), 1, "evidence_refused"),
    "oversized": (lambda c: c.public(lambda raw: raw + bytes(TPM_STRUCTURE_BYTES_MAX)), 1, "evidence_refused"),
    "false policy size": (lambda c: c.public(lambda raw: raw[:8] + b"\xff\xff" + raw[10:]), 1, "evidence_refused"),
    "false modulus size": (
        lambda c: c.public(lambda raw: raw[:-258] + b"\x01\x01" + raw[-256:]),
        1,
        "evidence_refused",
    ),
    "keyed hash": (lambda c: c.public(lambda raw: b"\x00\x08" + raw[2:]), 1, "evidence_refused"),
    "ECC P-256 EK": (ecc(ECC_EK), 2, "evidence_refused"),
    "ECC P-384 EK": (ecc(P384_EK), 2, "evidence_refused"),
    "ECC EK, tier tpm allowed": (lambda c: ecc(ECC_EK)(c.trusting(maker(), tiers=WITH_TPM)), 2, "evidence_refused"),
    "RSA-1024 EK": (lambda c: c.public(lambda raw: raw.replace(b"\x08\x00", b"\x04\x00", 1)), 2, "evidence_refused"),
    "signing EK": (
        lambda c: c.with_evidence(ek_public=forged.ek_public(EK.public_key(), attributes=forged.AK_ATTRIBUTES)),
        3,
        "evidence_refused",
    ),
    "other policy": (
        lambda c: c.with_evidence(ek_public=forged.ek_public(EK.public_key(), policy=bytes(32))),
        4,
        "evidence_refused",
    ),
    "exponent spelt out": (
        lambda c: c.with_evidence(ek_public=forged.ek_public(EK.public_key(), exponent=65537)),
        4,
        "evidence_refused",
    ),
    "certificate is none": (lambda c: c.with_evidence(ek_certificate=b"\x30\x03abc"), 5, "tier_refused"),
    "certificate empty": (lambda c: c.with_evidence(ek_certificate=b""), 5, "tier_refused"),
    "certificate and more": (
        lambda c: c.with_evidence(ek_certificate=(c.evidence.ek_certificate or b"") + b"\0"),
        5,
        "tier_refused",
    ),
    "certificate oversized": (
        lambda c: c.with_evidence(ek_certificate=bytes(EK_CERTIFICATE_BYTES_MAX + 1)),
        5,
        "tier_refused",
    ),
    "certificate of another key": (
        lambda c: c.with_evidence(ek_certificate=maker().certify(STRANGER.public_key())),
        6,
        "evidence_refused",
    ),
    "another key, tier tpm allowed": (
        lambda c: c.with_evidence(ek_certificate=maker().certify(STRANGER.public_key())).trusting(tiers=WITH_TPM),
        6,
        "evidence_refused",
    ),
    "certificate of an ECC key": (
        lambda c: c.with_evidence(ek_certificate=maker().certify(ECC_EK.public_key())),
        6,
        "evidence_refused",
    ),
    "no EKU": (lambda c: c.certified(purposes=()), 7, "evidence_refused"),
    "EKU of an AK": (
        lambda c: c.certified(purposes=(x509.ObjectIdentifier("2.23.133.8.3"),)),
        7,
        "evidence_refused",
    ),
    "a CA's certificate": (lambda c: c.certified(ca=True), 7, "evidence_refused"),
    "may sign certificates": (lambda c: c.certified(may_sign=True), 7, "evidence_refused"),
    "a signing key's certificate": (
        lambda c: c.certified(usage=forged.key_usage(digital_signature=True)),
        7,
        "evidence_refused",
    ),
    "usage of an ECC key": (lambda c: c.certified(usage=forged.key_usage(key_agreement=True)), 7, "evidence_refused"),
    "no usage at all": (lambda c: c.certified(usage=forged.key_usage()), 7, "evidence_refused"),
    "unknown critical extension": (lambda c: c.certified(extra=[forged.UNKNOWN_EXTENSION]), 7, "evidence_refused"),
    "certificate expired": (lambda c: c.certified(not_after=NOW - timedelta(days=1)), 8, "tier_refused"),
    "certificate of the future": (lambda c: c.certified(not_before=NOW + timedelta(days=1)), 8, "tier_refused"),
    "no root": (lambda c: c.trusting(), 9, "tier_refused"),
    "another maker's root": (lambda c: c.trusting(maker("Other")), 9, "tier_refused"),
    "an attacker's CA": (lambda c: c.certified(maker("Attacker").certify), 9, "tier_refused"),
    "intermediate missing": (lambda c: c.rooted(maker().root), 9, "tier_refused"),
    "an attacker's CA of the same names": (namesake, 10, "tier_refused"),
    "another maker's intermediate": (
        lambda c: c.certified(maker("Other").certify).rooted(maker().root, maker("Other").intermediate),
        10,
        "tier_refused",
    ),
    "root ended before it issued": (under(timedelta(-900), timedelta(-450), root=True), 10, "tier_refused"),
    "root of the future": (under(timedelta(1), timedelta(900), root=True), 10, "tier_refused"),
    "intermediate ended before it issued": (under(timedelta(-900), timedelta(-450), root=False), 10, "tier_refused"),
    "CA for other purposes": (below(extra=[x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH])]), 9, "tier_refused"),
    "name constraints": (
        below(extra=[x509.NameConstraints([x509.DNSName("maker.test")], None)]),
        9,
        "tier_refused",
    ),
    "intermediate is no CA": (below(ca=False, may_sign=False), 9, "tier_refused"),
    "intermediate may not sign": (below(may_sign=False), 9, "tier_refused"),
    "path too long": (two_below_one, 10, "tier_refused"),
    "root for another EK type": (
        lambda c: c.trusting(roots=(TrustedRoot(maker().root.der, (maker().intermediate.der,), "ecc_p256"),)),
        11,
        "evidence_refused",
    ),
    "other EK type, tier tpm allowed": (
        lambda c: c.trusting(
            roots=(TrustedRoot(maker().root.der, (maker().intermediate.der,), "ecc_p256"),), tiers=WITH_TPM
        ),
        11,
        "evidence_refused",
    ),
    "no certificate": (lambda c: c.with_evidence(ek_certificate=None), 12, "tier_refused"),
    "attested not allowed": (lambda c: c.trusting(maker(), tiers=frozenset({"tpm"})), 12, "tier_refused"),
}


def test_a_chip_of_a_trusted_maker() -> None:
    case = right()
    chip = check_chip(case.evidence, case.trust, NOW)
    assert (chip.tier, chip.ek_type, chip.ek_public) == ("attested", "rsa2048", case.evidence.ek_public)
    assert chip.ek_name == forged.name_of(case.evidence.ek_public)


@pytest.mark.parametrize("mutation", REFUSED)
def test_forged_endorsement(mutation: str) -> None:
    change, step, code = REFUSED[mutation]
    case = change(right())
    with pytest.raises(EvidenceRefused) as refused:
        check_chip(case.evidence, case.trust, NOW)
    assert (refused.value.step, refused.value.code) == (step, code), refused.value.reason
    assert refused.value.reason
    assert forged.name_of(case.evidence.ek_public)[2:].hex() not in refused.value.reason


@pytest.mark.parametrize(
    "mutation",
    [
        "certificate is none",
        "certificate empty",
        "certificate and more",
        "certificate oversized",
        "certificate expired",
        "another maker's root",
        "intermediate missing",
        "root ended before it issued",
    ],
)
def test_a_chip_without_a_trusted_maker_gets_the_tier_tpm(mutation: str) -> None:
    change, _, _ = REFUSED[mutation]
    case = change(right())
    chip = check_chip(case.evidence, trust_in(roots=case.trust.roots, tiers=WITH_TPM), NOW)
    assert (chip.tier, chip.ek_public) == ("tpm", case.evidence.ek_public)


def test_a_chip_without_certificate_gets_the_tier_tpm() -> None:
    case = right().with_evidence(ek_certificate=None)
    assert check_chip(case.evidence, trust_in(maker(), tiers=WITH_TPM), NOW).tier == "tpm"


@pytest.mark.parametrize(
    "certificate", [None, b"unreadable", forged.maker("Attacker").certify(EK.public_key(), not_after=NOW)]
)
def test_an_allow_listed_chip_needs_no_certificate(certificate: bytes | None) -> None:
    case = right().with_evidence(ek_certificate=certificate)
    allowed = frozenset({forged.name_of(case.evidence.ek_public).hex()})
    chip = check_chip(case.evidence, trust_in(allowed_ek_names=allowed), NOW)
    assert (chip.tier, chip.ek_public) == ("attested", case.evidence.ek_public)
    with pytest.raises(EvidenceRefused) as refused:
        check_chip(case.evidence, trust_in(allowed_ek_names=frozenset({"00" * 34})), NOW)
    assert refused.value.step in (5, 9, 12)


def test_the_allow_list_admits_no_second_key_of_a_chip() -> None:
    public = forged.ecc_ek_public(ECC_EK.public_key())
    allowed = frozenset({forged.name_of(public).hex()})
    evidence = EndorsementEvidence(ek_public=public, ak_public=b"")
    root = TrustedRoot(maker().root.der, (maker().intermediate.der,), "ecc_p256")
    with pytest.raises(EvidenceRefused) as refused:
        check_chip(evidence, trust_in(maker(), allowed_ek_names=allowed), NOW)
    assert refused.value.step == 2
    with pytest.raises(EvidenceRefused) as refused:
        check_chip(evidence, trust_in(roots=(root,), allowed_ek_names=allowed), NOW)
    assert refused.value.step == 12


def test_a_root_may_name_another_ek_type() -> None:
    case = ecc(ECC_EK)(right())
    root = TrustedRoot(maker().root.der, (maker().intermediate.der,), "ecc_p256")
    chip = check_chip(case.evidence, trust_in(roots=(root,)), NOW)
    assert (chip.tier, chip.ek_type) == ("attested", "ecc_p256")
    for unvouched in (case.with_evidence(ek_certificate=None), case.certified_by(maker("Attacker"))):
        with pytest.raises(EvidenceRefused) as refused:
            check_chip(unvouched.evidence, trust_in(roots=(root,), tiers=WITH_TPM), NOW)
        assert refused.value.code == "tier_refused"


def p384() -> Case:
    """A certified ECC P-384 EK of a maker whose root names this type."""
    numbers = P384_EK.public_key().public_numbers()
    usage = forged.key_usage(key_agreement=True)
    evidence = EndorsementEvidence(
        ek_public=TEMPLATES["ecc_p384"].public(numbers.x, numbers.y),
        ak_public=b"",
        ek_certificate=maker().certify(P384_EK.public_key(), usage=usage),
    )
    root = TrustedRoot(maker().root.der, (maker().intermediate.der,), "ecc_p384")
    return Case(evidence, trust_in(roots=(root,)))


def test_a_chip_known_by_its_p384_key() -> None:
    case = p384()
    chip = check_chip(case.evidence, case.trust, NOW)
    assert (chip.tier, chip.ek_type, chip.ek_name[:2]) == ("attested", "ecc_p384", b"\x00\x0c")
    for change in (forged.EK_ATTRIBUTES, 0x000300F2):
        raw = case.evidence.ek_public
        changed = raw[:4] + change.to_bytes(4, "big") + raw[8:10] + bytes(48) + raw[58:]
        with pytest.raises(EvidenceRefused) as refused:
            check_chip(case.with_evidence(ek_public=changed).evidence, case.trust, NOW)
        assert refused.value.step == (3 if change == forged.EK_ATTRIBUTES else 4)


def test_of_several_keys_the_one_that_the_tenant_trusts_identifies_the_chip() -> None:
    other = p384()
    offered = OtherEndorsement(other.evidence.ek_public, other.evidence.ek_certificate or b"")
    both = EndorsementEvidence(right().evidence.ek_public, b"", None, (offered,))
    assert check_chip(both, other.trust, NOW).ek_type == "ecc_p384"
    assert check_chip(both, trust_in(maker(), tiers=WITH_TPM), NOW).ek_name == name_of(both.ek_public)
    unvouched = trust_in(roots=(TrustedRoot(maker("Other").root.der, (), "ecc_p384"),))
    with pytest.raises(EvidenceRefused) as refused:
        check_chip(both, unvouched, NOW)
    assert "gave no" not in refused.value.reason
    assert refused.value.step == 9


@pytest.mark.parametrize("fault", odd.FAULTS)
def test_a_certificate_with_a_fault_of_makers_attests(fault: str) -> None:
    faulty = odd.faulty(right().evidence.ek_certificate or b"", maker().intermediate.key, odd.FAULTS[fault])
    assert check_chip(right().with_evidence(ek_certificate=faulty).evidence, right().trust, NOW).tier == "attested"


def test_an_issuer_may_end_before_its_chips() -> None:
    for root in (True, False):
        case = under(timedelta(-900), timedelta(-1), root=root)(right())
        assert check_chip(case.evidence, case.trust, NOW).tier == "attested"


def test_policies_of_a_ca_have_no_effect() -> None:
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)])
    case = below(extra=[policies])(right())
    assert check_chip(case.evidence, case.trust, NOW).tier == "attested"


def test_the_second_root_of_a_tenant_counts_too() -> None:
    case = right()
    assert check_chip(case.evidence, trust_in(maker("Other"), maker()), NOW).tier == "attested"


def test_a_certificate_straight_under_the_root() -> None:
    case = right().certified(issuer=maker().root).rooted(maker().root)
    assert check_chip(case.evidence, case.trust, NOW).tier == "attested"


@pytest.mark.parametrize(("ek_type", "name"), [("rsa2048", "EK-RSA2048"), ("ecc_p256", "EK-ECC256")])
def test_the_templates_are_those_of_the_profile(ek_type: EkType, name: str) -> None:
    template = TEMPLATES[ek_type]

    def no_nv_memory(index: int) -> bytes:
        raise NoSuchIndex(index)

    _, public = create_ek_template(name, no_nv_memory)
    wanted = bytes(public.publicArea.marshal())
    assert wanted == template.head + template.asked_unique


def test_the_template_of_p384_is_that_of_the_profile() -> None:
    template = TEMPLATES["ecc_p384"]
    found = ek_template.lookup("EK-HIGH-ECC384")
    assert found is not None
    assert found.cert_index == template.certificate_index
    assert bytes(found.template.publicArea.marshal()) == template.head + template.asked_unique


@given(position=st.integers(0, 313), change=st.integers(1, 255))
def test_no_changed_byte_of_the_public_is_the_certified_chip(position: int, change: int) -> None:
    case = right().public(partial(flip, position=position, change=change))
    with pytest.raises(EvidenceRefused):
        check_chip(case.evidence, trust_in(maker(), tiers=WITH_TPM), NOW)


CERTIFICATE = forged.endorsement().ek_certificate or b""


@given(position=st.integers(0, len(CERTIFICATE) - 1), change=st.integers(1, 255))
def test_no_changed_byte_of_the_certificate_attests(position: int, change: int) -> None:
    """Except where the outer form changes and no content: it is not signed. Such a certificate names the same chip."""
    case = right().with_evidence(ek_certificate=flip(CERTIFICATE, position, change))
    try:
        chip = check_chip(case.evidence, case.trust, NOW)
    except EvidenceRefused:
        return
    assert chip == check_chip(right().evidence, case.trust, NOW)
    signed = read_certificate(CERTIFICATE).signed
    assert not 4 <= position < 4 + len(signed)


def flip(raw: bytes, position: int, change: int) -> bytes:
    changed = bytearray(raw)
    changed[position % len(raw)] ^= change
    return bytes(changed)
