"""Pure functions: the lint's rules for revocation: addresses of CRL, OCSP responder and CA, or the statement of none."""

import re

from cryptography import x509

from cloud.breakwater.pkix.lint_rules import CRL_POINTS, NO_CHECK, NO_REV_AVAIL, Parsed, require
from cloud.crypto.der import octet_string, sequence, tlv


def no_revocation(parsed: Parsed) -> None:
    """The values of noRevAvail (RFC 9608 section 2) and id-pkix-ocsp-nocheck (RFC 6960 section 4.2.2.2.1) are NULL."""
    if parsed.rules.has(NO_REV_AVAIL):
        found = parsed.value(x509.UnrecognizedExtension)
        same = found.oid.dotted_string == NO_REV_AVAIL and found.value == b"\x05\x00"
        require("no_rev_avail", same, "noRevAvail is not NULL")
    if parsed.rules.has(NO_CHECK):
        require("no_check", _NO_CHECK_DER in parsed.tbs, "id-pkix-ocsp-nocheck is not NULL")


def root_crl(parsed: Parsed) -> None:
    """The address of the CRL of the root that signs this CA certificate. It is optional."""
    url, authority = parsed.wanted.crl_url, parsed.issuer.authority
    if not url:
        return
    require("distribution", parsed.rules.may_name_root_crl, "this profile has no address of a root's CRL")
    require("distribution_url", _URL.fullmatch(url) is not None, "not an absolute http URL of at most 255 characters")
    own = url.endswith(f"/crl/{authority}/1.crl")
    require("distribution_authority", own, f"the CRL address is not the one of {authority}")
    require("crl_points", _points(url) in parsed.tbs, "not the CRL address that was chosen for this certificate")


def _points(url: str) -> bytes:
    """Encode the CRL distribution points, without the header of the extension (RFC 5280 section 4.2.1.13)."""
    name = tlv(0x86, url.encode())
    return sequence(_CRL_POINTS_HEAD, octet_string(sequence(sequence(tlv(0xA0, tlv(0xA0, name))))))


def distribution(parsed: Parsed) -> None:
    """One CRL, one OCSP responder and one CA certificate, each of the CA that signs the certificate."""
    where = parsed.wanted.distribution
    needed = parsed.rules.has(CRL_POINTS)
    require("distribution", (where is not None) == needed, "addresses are missing, or this profile has no addresses")
    if where is None:
        return
    urls = (where.crl_url, where.ocsp_url, where.ca_url)
    require("distribution_url", all(map(_URL.fullmatch, urls)), "not an absolute http URL of at most 255 characters")
    authority = parsed.issuer.authority
    _, _, shard = where.crl_url.rpartition(f"/crl/{authority}/")
    own = _SHARD_FILE.fullmatch(shard) is not None and where.ca_url.endswith(f"/ca/{authority}.cer")
    require("distribution_authority", own, f"the CRL or CA address is not one of {authority}")
    _, ocsp, ca = (tlv(0x86, url.encode()) for url in urls)
    require(
        "crl_points", _points(where.crl_url) in parsed.tbs, "not the CRL address that was chosen for this certificate"
    )
    access = sequence(sequence(_ACCESS_OCSP, ocsp), sequence(_ACCESS_CA, ca))
    access = sequence(_INFORMATION_ACCESS_HEAD, octet_string(access))
    require(
        "information_access",
        access in parsed.tbs,
        "not the OCSP and CA addresses that were chosen for this certificate",
    )


_NO_CHECK_DER = bytes.fromhex("300f06092b060105050730010504020500")
_CRL_POINTS_HEAD = bytes.fromhex("0603551d1f")
_INFORMATION_ACCESS_HEAD = bytes.fromhex("06082b06010505070101")
_ACCESS_OCSP = bytes.fromhex("06082b06010505073001")
_ACCESS_CA = bytes.fromhex("06082b06010505073002")
_SHARD_FILE = re.compile(r"[0-9]{1,9}\.crl")
_URL = re.compile(
    r"(?=.{1,255}$)http://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)+"
)
