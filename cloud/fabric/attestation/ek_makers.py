"""Pure functions: recognise the maker of a TPM by the names in a CA certificate, and by the names that people use.

The recognition chooses certificates from a file for an operator. It decides nothing about trust: a tenant trusts the
certificates that were added, whatever their names are.

Sources: TCG Vendor ID Registry for TPM family 1.2 and 2.0, version 1.07 (the ids and names of vendors); subjects of the
CA certificates in github.com/loicsikidi/tpm-ca-certificates and in the folder tpm_cert_store of github.com/keylime/keylime
(the words in certificates). GlobalSign signs for STMicroelectronics (its root for TPMs has no other user).
"""

import re

import msgspec

from protocol.maker_certificates import MakerCertificate


class TpmMaker(msgspec.Struct, frozen=True):
    """A maker: its name here, its id in the registry, other usual names, and the words that its certificates have.

    Words are lower-case, and separated by single spaces. One of them in the subject is enough.
    """

    name: str
    vendor: str
    spellings: tuple[str, ...]
    words: tuple[str, ...]


MAKERS = (
    TpmMaker("alibaba", "BABA", ("alibaba cloud", "aliyun"), ("alibaba", "aliyun")),
    TpmMaker("amd", "AMD", ("advanced micro devices",), ("amd", "amdtpm", "advanced micro devices")),
    TpmMaker("ant", "ANT", ("ant group",), ("ant group",)),
    TpmMaker("atmel", "ATML", ("microchip",), ("atmel", "microchip")),
    TpmMaker("broadcom", "BRCM", (), ("broadcom",)),
    TpmMaker("cisco", "CSCO", (), ("cisco",)),
    TpmMaker("google", "GOOG", ("google cloud", "gce", "google llc"), ("google",)),
    TpmMaker("hpe", "HPE", ("hp enterprise", "hewlett packard enterprise"), ("hpe", "hewlett packard enterprise")),
    TpmMaker("hpi", "HPI", ("hp", "hp inc"), ("hp inc", "hpi")),
    TpmMaker("huawei", "HISI", ("hisilicon",), ("huawei", "hisilicon")),
    TpmMaker("ibm", "IBM", (), ("ibm", "international business machines")),
    TpmMaker("infineon", "IFX", ("infineon technologies",), ("infineon", "ifx", "infineon technologies")),
    TpmMaker("intel", "INTC", ("intel corporation", "intel ptt"), ("intel", "intel corporation", "odca")),
    TpmMaker("lenovo", "LEN", (), ("lenovo",)),
    TpmMaker("microsoft", "MSFT", ("pluton",), ("microsoft",)),
    TpmMaker("nationz", "NTZ", ("nationz technologies",), ("nationz",)),
    TpmMaker("nsing", "NSG", ("nsing technologies",), ("nsing",)),
    TpmMaker(
        "nuvoton", "NTC", ("nuvoton technology", "winbond", "wec"), ("nuvoton", "nuvotontpmrootca", "npct", "winbond")
    ),
    TpmMaker("qualcomm", "QCOM", (), ("qualcomm", "qc")),
    TpmMaker("rockchip", "ROCC", ("fuzhou rockchip",), ("rockchip",)),
    TpmMaker("samsung", "SMSN", (), ("samsung",)),
    TpmMaker("secedge", "SECE", (), ("secedge",)),
    TpmMaker("sinosun", "SNS", (), ("sinosun",)),
    TpmMaker(
        "stmicroelectronics",
        "STM",
        ("st", "stmicro", "st microelectronics", "stmicroelectronics nv"),
        ("stmicroelectronics", "stm", "stmtpmekroot", "stsafe", "globalsign trusted platform module"),
    ),
    TpmMaker("texas instruments", "TXN", ("ti",), ("texas instruments",)),
    TpmMaker("wisekey", "SEAL", ("sealsq",), ("wisekey", "sealsq")),
)
"""All makers, sorted by name."""

UNKNOWN = "unknown"
"""The maker of a certificate that has the words of no maker."""

_ORGANISATION = re.compile(r"(?:^|,)O=([^,]*)")


class NoSuchMaker(ValueError):
    """No maker has this name. The text lists the names."""


def maker_named(text: str) -> str:
    """The name of a maker, by its name, its id in the registry, or another usual spelling. Raises NoSuchMaker."""
    asked = _words(text)
    for each in MAKERS:
        known = (each.name, each.vendor, *each.spellings)
        if asked and asked in {_words(spelling) for spelling in known}:
            return each.name
    raise NoSuchMaker(f"no maker has the name {text!r}. Known are {', '.join(each.name for each in MAKERS)}")


def maker_of(certificate: MakerCertificate) -> str:
    """The maker that a CA certificate names, or `UNKNOWN`.

    The organisation of the subject decides first, then the whole subject, then the issuer: some intermediates name
    their maker only there.
    """
    organisation = " ".join(_ORGANISATION.findall(certificate.subject_text))
    for text in (organisation, certificate.subject_text, certificate.issuer_text):
        padded = f" {_words(text)} "
        for each in MAKERS:
            if any(f" {word} " in padded for word in each.words):
                return each.name
    return UNKNOWN


def _words(text: str) -> str:
    """The words of a text in lower case, separated by single spaces. Every other character separates words."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
