"""`cloud.fabric.attestation.ek_makers`: the makers' names, and the makers of certificates."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cloud.fabric.attestation.ek_makers import MAKERS, UNKNOWN, NoSuchMaker, maker_named, maker_of
from protocol.maker_certificates import read_certificate
from tests.simulators import odd_certificates as odd
from tests.simulators.forged_evidence import maker


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("infineon", "infineon"),
        ("IFX", "infineon"),
        ("Infineon Technologies", "infineon"),
        ("stm", "stmicroelectronics"),
        ("ST Microelectronics", "stmicroelectronics"),
        ("Advanced Micro Devices", "amd"),
        ("intc", "intel"),
        ("NTC", "nuvoton"),
        ("GCE", "google"),
    ],
)
def test_a_maker_by_its_usual_names(text: str, name: str) -> None:
    assert maker_named(text) == name


@pytest.mark.parametrize("text", ["", "nobody", "infineonn", " . "])
def test_a_name_of_no_maker(text: str) -> None:
    with pytest.raises(NoSuchMaker, match="Known are alibaba, amd"):
        maker_named(text)


def named(*, organisation: str = "", common_name: str = "A CA", issuer: str = "") -> str:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    attributes += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)] if organisation else []
    subject = x509.Name(attributes).public_bytes()
    other = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or "A CA")]).public_bytes()
    root = maker().root
    return maker_of(read_certificate(odd.renamed(root.der, root.key, subject=subject, issuer=other)))


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"organisation": "Infineon Technologies AG"}, "infineon"),
        ({"organisation": "Advanced Micro Devices, Inc"}, "amd"),
        ({"organisation": "STMicroelectronics NV", "common_name": "made for intel"}, "stmicroelectronics"),
        (
            {"organisation": "GlobalSign", "common_name": "GlobalSign Trusted Platform Module Root CA"},
            "stmicroelectronics",
        ),
        ({"organisation": "NSING Technologies Pte. Ltd."}, "nsing"),
        ({"common_name": "www.intel.com"}, "intel"),
        ({"common_name": "NuvotonTPMRootCA2210"}, UNKNOWN),
        ({"common_name": "CSME", "issuer": "Intel ODCA"}, "intel"),
        ({"common_name": "An intelligent CA"}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_the_maker_of_a_certificate(parts: dict[str, str], name: str) -> None:
    assert named(**parts) == name


def test_names_are_those_of_one_maker() -> None:
    assert [each.name for each in MAKERS] == sorted(each.name for each in MAKERS)
    names = [name.lower() for each in MAKERS for name in {each.name, each.vendor.lower(), *each.spellings}]
    assert len(names) == len(set(names))
