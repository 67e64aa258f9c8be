"""Adapter: pkilint, a general linter for certificates, CRLs and OCSP responses.

Only the checker and the tests use it. It takes milliseconds for a document and a large part of a second to import, so
the issuer does not run it before a signature. Rule: `WAIVED` lists the findings that do not apply here, with reasons.
Every other finding is reported.
"""

import re
from functools import cache
from typing import Any, Literal

import msgspec

from cloud.breakwater.errors import PkilintMissing

Kind = Literal["certificate", "crl", "ocsp"]

_REPORTED = frozenset({"NOTICE", "WARNING", "ERROR", "FATAL"})


class Waiver(msgspec.Struct, frozen=True):
    """A finding that we ignore: its code, a regular expression for its whole text, and our reason."""

    code: str
    detail: str
    reason: str


WAIVED: tuple[Waiver, ...] = (
    Waiver(
        "itu.invalid_asn1_syntax",
        r".*extensions\.[0-9]+\.extnValue\" .* 2\.5\.29\.37: .*OID contains arc which is larger than 32-bits",
        "The purpose of device certificates of profile versions 1 and 2, `EKU_DEVICE_OLD`, is an OID whose last arc has "
        "58 bits. X.660 sets no limit for an arc, but pkilint accepts 32 bits. Newer certificates have another OID.",
    ),
    Waiver(
        "pkix.invalid_uri_syntax",
        r'Invalid URI syntax: "spiffe://[a-z0-9.-]+/[a-z0-9_/]+"',
        "pkilint has a list of known URI schemes without `spiffe`. RFC 5280 section 4.2.1.6 requires a URI of RFC 3986 "
        "with a scheme and a host; a SPIFFE id has both.",
    ),
    Waiver(
        "pkix.invalid_domain_name_syntax",
        r'Invalid domain name syntax: "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"',
        "pkilint requires a dot in a DNS name. A name of one label (`localhost`, a host in a private network) has the "
        "preferred syntax of RFC 1034 section 3.5, as RFC 5280 section 4.2.1.6 requires. The operator chose the names.",
    ),
)


class Finding(msgspec.Struct, frozen=True):
    """A finding of pkilint: its stable code, its severity, its place in the document, and its text."""

    code: str
    severity: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code} ({self.severity}) at {self.path}: {self.detail}"


def pkilint_findings(der: bytes, kind: Kind) -> list[Finding]:
    """Return every finding that is not waived.

    Raises:
        PkilintMissing: the extra `check` is not installed.
        ValueError: `der` is not a document of this kind.
    """
    return [finding for finding in all_findings(der, kind) if waiver_of(finding) is None]


def waiver_of(finding: Finding) -> Waiver | None:
    """Return the waiver of a finding; None if it has none."""
    for waiver in WAIVED:
        if finding.code == waiver.code and re.fullmatch(waiver.detail, finding.detail):
            return waiver
    return None


def all_findings(der: bytes, kind: Kind) -> list[Finding]:
    """Return every finding of severity NOTICE or higher, waived or not. Raises as `pkilint_findings` does."""
    load, validator = _linter(kind)
    document = load(der)
    found = []
    for result in validator.validate(document.root):
        for description in result.finding_descriptions:
            finding = description.finding
            if finding.severity.name in _REPORTED:
                where = str(result.node.path)
                found.append(Finding(finding.code, finding.severity.name, where, str(description.message or "")))
    return found


@cache
def _linter(kind: Kind) -> tuple[Any, Any]:
    """Return the loader and the validator for documents of a kind. Both are `Any` because pkilint has no types."""
    try:
        from pkilint import loader, pkix
        from pkilint.pkix import certificate, crl, extension, name, ocsp
    except ImportError as error:
        raise PkilintMissing("cannot run pkilint: it is not installed; install the extra `check`") from error
    decoders = [
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ]
    if kind == "certificate":
        validators = [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ]
        decoders = certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS)
        load = loader.RFC5280CertificateDocumentLoader().load_der_document
        return load, certificate.create_pkix_certificate_validator_container(decoders, validators)
    if kind == "crl":
        validators = [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ]
        load = loader.RFC5280CertificateListDocumentLoader().load_der_document
        return load, crl.create_pkix_crl_validator_container(decoders, validators)
    load = loader.RFC6960OCSPResponseDocumentLoader().load_der_document
    decoders = [ocsp.create_response_decoder(), *decoders]
    return load, ocsp.create_pkix_ocsp_response_validator_container(decoders, [])
