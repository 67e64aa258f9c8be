"""Adapter: what pkilint, a general linter, finds in a certificate, a CRL or an OCSP response.

Only the checker and the tests use it: it takes milliseconds a document and a good part of a second to import, so no
signature waits for it. Rule: a finding that does not apply here is waived by name, with its reason, in `WAIVED`; every
other finding is reported.
"""

import re
from functools import cache
from typing import Any, Literal

import msgspec

from cloud.breakwater.errors import PkilintMissing

Kind = Literal["certificate", "crl", "ocsp"]

_TOLD = frozenset({"NOTICE", "WARNING", "ERROR", "FATAL"})


class Waiver(msgspec.Struct, frozen=True):
    """A finding that we do not follow: its name, what of its text must match, and why."""

    code: str
    detail: str
    reason: str


WAIVED: tuple[Waiver, ...] = (
    Waiver(
        "itu.invalid_asn1_syntax",
        r".*extensions\.[0-9]+\.extnValue\" .* 2\.5\.29\.37: .*OID contains arc which is larger than 32-bits",
        "The purpose of a device certificate is an OID made from a UUID (2.25.N, ITU-T X.667), whose last arc has 128 "
        "bits by design; X.660 puts no bound on an arc. pkilint's decoder does. `lint` compares the purpose itself.",
    ),
    Waiver(
        "pkix.invalid_uri_syntax",
        r'Invalid URI syntax: "spiffe://[a-z0-9.-]+/[a-z0-9_/]+"',
        "pkilint's checker of URIs has a list of schemes, and `spiffe` is not on it. RFC 5280 section 4.2.1.6 asks for "
        "RFC 3986 with a scheme and a host, which a SPIFFE id has.",
    ),
    Waiver(
        "pkix.invalid_domain_name_syntax",
        r'Invalid domain name syntax: "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"',
        "A name of one label (`localhost`, a host in a private network) is in the preferred syntax of RFC 1034 section "
        "3.5, which RFC 5280 section 4.2.1.6 asks for; pkilint wants a dot. Names are those the operator recorded.",
    ),
)


class Finding(msgspec.Struct, frozen=True):
    """A finding of pkilint: its stable name, its severity, where, and what it says."""

    code: str
    severity: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code} ({self.severity}) at {self.path}: {self.detail}"


def pkilint_findings(der: bytes, kind: Kind) -> list[Finding]:
    """Every finding that is not waived. Raises PkilintMissing without the extra `check`; ValueError for no DER."""
    return [finding for finding in all_findings(der, kind) if waiver_of(finding) is None]


def waiver_of(finding: Finding) -> Waiver | None:
    """The waiver that fits a finding, if any."""
    for waiver in WAIVED:
        if finding.code == waiver.code and re.fullmatch(waiver.detail, finding.detail):
            return waiver
    return None


def all_findings(der: bytes, kind: Kind) -> list[Finding]:
    """Every finding, the waived ones too, from NOTICE up. Raises as `pkilint_findings`."""
    load, validator = _linter(kind)
    document = load(der)
    found = []
    for result in validator.validate(document.root):
        for description in result.finding_descriptions:
            finding = description.finding
            if finding.severity.name in _TOLD:
                where = str(result.node.path)
                found.append(Finding(finding.code, finding.severity.name, where, str(description.message or "")))
    return found


@cache
def _linter(kind: Kind) -> tuple[Any, Any]:
    """How to load a document of a kind, and its validator; pkilint has no types."""
    try:
        from pkilint import loader, pkix
        from pkilint.pkix import certificate, crl, extension, name, ocsp
    except ImportError as error:
        raise PkilintMissing("pkilint is not installed; install the extra `check`") from error
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
