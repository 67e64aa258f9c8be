"""Small forged makers with the oddities of real ones: accepted under their own root, and under no other maker's.

The oddities were seen in certificates of the named makers. The whole way of an operator's file is taken: the CAs are
read as PEM and sorted, and the maker is recognised by its names.
"""

import base64
import functools
from dataclasses import dataclass

import pytest
from cryptography import x509

from cloud.fabric.attestation.ek_makers import maker_of
from cloud.fabric.attestation.ek_roots import is_root, parse_trust_pem, trusted_roots
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust, check_chip
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from protocol.endorsement import EkType
from protocol.evidence import EndorsementEvidence
from protocol.maker_certificates import exact_certificate, read_certificate
from tests.simulators import forged_evidence as forged
from tests.simulators import odd_certificates as odd
from tests.simulators.forged_evidence import NOW, Authority, authority

POLICIES = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)])
ECC_USAGE = forged.key_usage(key_agreement=True)
SOUND = odd.FAULTS["none"]


@dataclass(frozen=True)
class OddMaker:
    """A maker, and what it does.

    Args:
        maker: its name among the known makers.
        names: the names of its CAs, the root first. The last CA signs the chips.
        of_leaf: the fault in certificates of chips.
        of_cas: the fault in certificates of CAs.
        critical_policies: certificatePolicies is critical in the CAs below the root.
        unordered: the issuer in the chip's certificate has its attributes in another order than DER.
        in_chip: how many of the last CAs are in the chip, and in no file.
        behind: bytes behind the certificate in NV memory.
        before: bytes before it.
        ek_type: the EK of its chips.
        usage: KeyUsage of the chip's certificate.
        refused: the step at which its chips are refused under its own root; 0 if they are attested.
    """

    maker: str
    names: tuple[str, ...]
    of_leaf: odd.Fault = SOUND
    of_cas: odd.Fault = SOUND
    critical_policies: bool = False
    unordered: bool = False
    in_chip: int = 0
    behind: bytes = b""
    before: bytes = b""
    ek_type: EkType = "rsa2048"
    usage: x509.KeyUsage | None = None
    refused: int = 0


def faults(*names: str) -> odd.Fault:
    """Several faults, one after the other."""

    def of_all(draft: odd.Draft) -> odd.Draft:
        return functools.reduce(lambda changed, name: odd.FAULTS[name](changed), names, draft)

    return of_all


MAKERS = {
    "Infineon: RSA, two CAs": OddMaker(
        "infineon", ("Infineon OPTIGA RSA Root CA 2", "Infineon OPTIGA TPM 2.0 RSA CA 007")
    ),
    "STMicroelectronics: critical policies, padding": OddMaker(
        "stmicroelectronics",
        ("STM TPM EK Root CA", "STM TPM EK Intermediate CA 05"),
        critical_policies=True,
        behind=b"\xff" * 300,
    ),
    "Nuvoton: the SET of a name in another order": OddMaker(
        "nuvoton", ("Nuvoton TPM Root CA 2111", "Nuvoton TPM CA 1"), unordered=True
    ),
    "Intel: a DEFAULT is encoded": OddMaker(
        "intel", ("Intel Root", "Intel TPM EK SPTH"), of_leaf=faults("DEFAULT encoded in an extension")
    ),
    "Intel: on-die CAs in the chip": OddMaker(
        "intel",
        ("Intel ODCA Root", "ODCA CSME", "ODCA Kernel", "ODCA ROM", "ODCA PTT"),
        in_chip=3,
        ek_type="ecc_p256",
        usage=ECC_USAGE,
    ),
    "Google: a certificate for encryption": OddMaker(
        "google", ("Google EK AK CA Root", "Google EK AK CA Intermediate")
    ),
    "Google: the certificate of the signing key": OddMaker(
        "google",
        ("Google Signing Root", "Google Signing Intermediate"),
        usage=forged.key_usage(digital_signature=True),
        refused=7,
    ),
    "AMD: GeneralizedTime, NULL parameters, long serial": OddMaker(
        "amd",
        ("AMDTPM Root", "AMDTPM"),
        of_leaf=faults("GeneralizedTime before 2050", "NULL parameters of ECDSA", "serial not minimal"),
        of_cas=faults("GeneralizedTime before 2050", "NULL parameters of ECDSA"),
    ),
    "NSING: ECC EKs": OddMaker("nsing", ("NSING Root CA", "NSING CA 1"), ek_type="ecc_p256", usage=ECC_USAGE),
    "Microsoft: TRUE as 1, lengths not minimal": OddMaker(
        "microsoft", ("Microsoft TPM Root", "Microsoft Pluton CA"), of_leaf=faults("TRUE as 1", "length not minimal")
    ),
    "a header before the certificate, as of TPM 1.2": OddMaker(
        "atmel", ("Atmel TPM Root", "Atmel TPM CA"), before=b"\x10\x01\x00\x04\x06\x00\x00", refused=5
    ),
}


@dataclass(frozen=True)
class Forged:
    """A forged maker at work: the PEM file of its CAs, and the evidence of one of its chips."""

    pem: bytes
    cas: tuple[bytes, ...]
    evidence: EndorsementEvidence


@functools.cache
def forged_maker(name: str) -> Forged:
    maker = MAKERS[name]
    cas: list[Authority] = []
    ders: list[bytes] = []
    for each in maker.names:
        extra = [POLICIES] if maker.critical_policies and cas else []
        made = authority(each, cas[-1] if cas else None, extra=extra)
        ders.append(odd.faulty(made.der, cas[-1].key if cas else made.key, maker.of_cas))
        cas.append(made)
    issuer = odd.multi_valued("Maker", maker.names[-1], ordered=True)
    if maker.unordered:
        ders[-1] = odd.renamed(ders[-1], cas[-2].key, subject=issuer)
    leaf, public = _chip(maker, cas[-1])
    if maker.unordered:
        leaf = odd.renamed(leaf, cas[-1].key, issuer=odd.multi_valued("Maker", maker.names[-1], ordered=False))
    stored = maker.before + leaf + maker.behind
    known = ders[: len(ders) - maker.in_chip]
    pem = b"".join(_pem(der) for der in known)
    sent = tuple(reversed(ders[len(known) :]))
    return Forged(pem, tuple(ders), EndorsementEvidence(public, b"", exact_certificate(stored), intermediates=sent))


def _chip(maker: OddMaker, issuer: Authority) -> tuple[bytes, bytes]:
    """The certificate of a chip, and its EK public."""
    if maker.ek_type == "rsa2048":
        key = forged.rsa2048("ek").public_key()
        leaf, public = forged.maker().certify(key, issuer=issuer, usage=maker.usage), forged.ek_public(key)
    else:
        point = forged.p256("ek").public_key()
        leaf, public = forged.maker().certify(point, issuer=issuer, usage=maker.usage), forged.ecc_ek_public(point)
    return odd.faulty(leaf, issuer.key, maker.of_leaf), public


def _pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"# Owner: a maker\n-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def judged(evidence: EndorsementEvidence, pem: bytes, ek_type: EkType) -> Chip:
    """The verdict of a tenant that trusts the CAs of a file. Raises EvidenceRefused."""
    file = parse_trust_pem(pem)
    assert file.refused == ()
    roots = trusted_roots((der, ek_type) for der in (*file.roots, *file.intermediates))
    return check_chip(evidence, TenantTrust(roots, frozenset(), frozenset({"attested"})), NOW)


@pytest.mark.parametrize("name", MAKERS)
def test_a_chip_is_accepted_under_the_root_of_its_maker(name: str) -> None:
    maker, made = MAKERS[name], forged_maker(name)
    if maker.refused:
        with pytest.raises(EvidenceRefused) as caught:
            judged(made.evidence, made.pem, maker.ek_type)
        assert caught.value.step == maker.refused
    else:
        assert judged(made.evidence, made.pem, maker.ek_type).tier == "attested"


@pytest.mark.parametrize("name", MAKERS)
def test_a_chip_is_refused_under_the_root_of_every_other_maker(name: str) -> None:
    maker, made = MAKERS[name], forged_maker(name)
    for other in MAKERS:
        if other != name:
            with pytest.raises(EvidenceRefused) as caught:
                judged(made.evidence, forged_maker(other).pem, maker.ek_type)
            assert (caught.value.step, other) in {(maker.refused or step, other) for step in (5, 7, 9, 10)}


@pytest.mark.parametrize("name", MAKERS)
def test_a_maker_is_recognised_and_its_root_told_from_its_intermediates(name: str) -> None:
    maker, made = MAKERS[name], forged_maker(name)
    assert {maker_of(read_certificate(der)) for der in made.cas} == {maker.maker}
    assert [is_root(der) for der in made.cas] == [True] + [False] * (len(made.cas) - 1)
