"""Pure functions: lint a to-be-signed certificate against every rule of its profile before a CA key is used.

The lint was written independently of `profiles.py` and reads only the bytes and the `Wanted`. A wrong certificate gets
a signature only if both files contain the same mistake. `lint` returns a `Linted`, and the signer accepts only that.
The rules of old profile versions stay: `lint` accepts only the newest version, `relint` checks issued certificates of
every version. This lint takes 0.1 ms. pkilint, a general linter, takes several ms and does not know our profiles.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from cryptography import x509

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix.linted import Linted, algorithm_der, assemble, passed
from cloud.breakwater.pkix.profiles import CaName, Issuer, Wanted
from cloud.breakwater.pkix.reread import reread
from cloud.crypto.der import integer, octet_string, sequence, tlv
from protocol.ids import IdError

__all__ = ["RULES", "Linted", "assemble", "lint", "relint"]

E = TypeVar("E", bound=x509.ExtensionType)

_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_EXTENDED_KEY_USAGE = "2.5.29.37"
_ALTERNATIVE_NAME = "2.5.29.17"
_SUBJECT_KEY = "2.5.29.14"
_AUTHORITY_KEY = "2.5.29.35"
_NO_REV_AVAIL = "2.5.29.56"
_NAME_CONSTRAINTS = "2.5.29.30"
_CRL_POINTS = "2.5.29.31"
_INFORMATION_ACCESS = "1.3.6.1.5.5.7.1.1"
_NO_CHECK = "1.3.6.1.5.5.7.48.1.5"
_COMMON_NAME = bytes.fromhex("0603550403")
_SERIAL_NUMBER = bytes.fromhex("0603550405")
_NODE_CURVES = ("secp256r1",)
_ROOT_CURVES = ("secp384r1",)
_ANY_CURVES = ("secp256r1", "secp384r1")
_NEWEST = 2


class Rules(msgspec.Struct, frozen=True):
    """The rules of one profile version. `extensions` maps the OID of each required extension to its criticality.

    A certificate has exactly these extensions. `path_length` is None for a certificate that is not a CA's.
    """

    extensions: dict[str, bool]
    path_length: int | None
    key_usage: frozenset[str]
    purposes: tuple[str, ...]
    life_max: timedelta
    issuer: tuple[CaName, ...]
    curves: tuple[str, ...]

    @property
    def is_ca(self) -> bool:
        return self.path_length is not None

    def has(self, extension: str) -> bool:
        """Whether certificates of this profile contain the extension with this OID."""
        return extension in self.extensions


_CA_EXTENSIONS = {_BASIC_CONSTRAINTS: True, _KEY_USAGE: True, _SUBJECT_KEY: False, _AUTHORITY_KEY: False}
_ISSUING_EXTENSIONS = _CA_EXTENSIONS | {_NAME_CONSTRAINTS: True}
_BARE_EXTENSIONS = _CA_EXTENSIONS | {_EXTENDED_KEY_USAGE: False}
_LEAF_EXTENSIONS = _BARE_EXTENSIONS | {_ALTERNATIVE_NAME: False}
_SESSION_EXTENSIONS = _LEAF_EXTENSIONS | {_NO_REV_AVAIL: False}
_REVOCABLE_EXTENSIONS = _LEAF_EXTENSIONS | {_CRL_POINTS: False, _INFORMATION_ACCESS: False}
_LEAF = frozenset({"digital_signature"})
_CA = frozenset({"key_cert_sign", "crl_sign"})
_CLIENT = ("1.3.6.1.5.5.7.3.2",)
_BOTH_SIDES = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2")
_OCSP_SIGNING = ("1.3.6.1.5.5.7.3.9",)
_DEVICE = ("2.25.238106524351137287",)


def _days(count: int) -> timedelta:
    return timedelta(days=count)


_NODES: tuple[CaName, ...] = ("nodes",)
_SERVICES: tuple[CaName, ...] = ("services",)
_ROOT: tuple[CaName, ...] = ("root",)
_CROSS_RULES = Rules(_CA_EXTENSIONS, 1, _CA, (), _days(7300), _ROOT, _ROOT_CURVES)
_SESSION_RULES = Rules(_SESSION_EXTENSIONS, None, _LEAF, _CLIENT, timedelta(hours=12), _NODES, _NODE_CURVES)

RULES: dict[tuple[str, int], Rules] = {
    ("root", 1): _CROSS_RULES,
    ("issuing", 1): Rules(_CA_EXTENSIONS, 0, _CA, (), _days(3650), _ROOT, _ANY_CURVES),
    ("device", 1): Rules(_LEAF_EXTENSIONS, None, _LEAF, _DEVICE, _days(1095), _NODES, _NODE_CURVES),
    ("session", 1): _SESSION_RULES,
    ("service", 1): Rules(_LEAF_EXTENSIONS, None, _LEAF, _BOTH_SIDES, _days(30), _SERVICES, _ANY_CURVES),
    ("root", 2): Rules(_CA_EXTENSIONS, 2, _CA, (), _days(7300), _ROOT, _ROOT_CURVES),
    ("cross", 2): _CROSS_RULES,
    ("issuing", 2): Rules(_ISSUING_EXTENSIONS, 0, _CA, (), _days(3650), _ROOT, _ANY_CURVES),
    ("device", 2): Rules(_REVOCABLE_EXTENSIONS, None, _LEAF, _DEVICE, _days(1095), _NODES, _NODE_CURVES),
    ("session", 2): _SESSION_RULES,
    ("service", 2): Rules(_REVOCABLE_EXTENSIONS, None, _LEAF, _BOTH_SIDES, _days(7), _SERVICES, _ANY_CURVES),
    ("responder", 2): Rules(
        _BARE_EXTENSIONS | {_NO_CHECK: False}, None, _LEAF, _OCSP_SIGNING, _days(2), _NODES + _SERVICES, _NODE_CURVES
    ),
}
"""By profile and version. A version stays for `relint` once a certificate was issued under it."""

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


class _Parsed(msgspec.Struct, frozen=True):
    """The input of the rules: a parsed certificate, its bytes, and the `Wanted`, issuer and rules to compare it with.

    `in_place` is the number of parts at the start of the bytes that equal the expected encoding.
    """

    certificate: x509.Certificate
    tbs: bytes
    critical: dict[str, bool]
    values: dict[type[x509.ExtensionType], x509.ExtensionType]
    in_place: int
    wanted: Wanted
    issuer: Issuer
    rules: Rules

    def value(self, kind: type[E]) -> E:
        """Return the extension of this type. Raises LintError when the certificate has none."""
        value = self.values.get(kind)
        if not isinstance(value, kind):
            raise LintError("extension_set", f"no {kind.__name__}")
        return value

    def begins(self, count: int) -> bool:
        """Whether the bytes begin with the first `count` parts in their expected encoding."""
        return self.in_place >= count


def lint(tbs: bytes, wanted: Wanted, issuer: Issuer) -> Linted:
    """Check a TBSCertificate in DER against every rule of its profile's newest version.

    Raises:
        LintError: `rule` is the name of the first broken rule.
    """
    _require("profile_version", wanted.version == _NEWEST, f"version {wanted.version} is no longer issued")
    _apply_rules(_parse(tbs, issuer), tbs, wanted, issuer)
    return passed(tbs, issuer)


def relint(certificate: x509.Certificate, issuer: Issuer, profile: str, version: int, now: datetime) -> None:
    """Check an issued certificate against every rule of its profile's version.

    The expected values come from the certificate itself, so this checks only its form. The caller compares the
    certificate with the record and verifies its signature. This function makes no `Linted`.

    Raises:
        LintError: `rule` is the name of the first broken rule.
    """
    if (profile, version) not in RULES:
        raise LintError("profile_version", f"the profile {profile} has no version {version}")
    _require("validity_future", certificate.not_valid_before_utc <= now, "begins in the future")
    try:
        wanted = reread(certificate, profile, version)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, IdError) as error:
        raise LintError("der", f"a field cannot be parsed: {error}") from error
    _apply_rules(certificate, certificate.tbs_certificate_bytes, wanted, issuer)


def _apply_rules(certificate: x509.Certificate, tbs: bytes, wanted: Wanted, issuer: Issuer) -> None:
    rules = RULES[wanted.profile, wanted.version]
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise LintError("extensions", f"cannot be parsed, or one appears twice: {error}") from error
    parsed = _Parsed(
        certificate=certificate,
        tbs=tbs,
        critical={extension.oid.dotted_string: extension.critical for extension in extensions},
        values={type(extension.value): extension.value for extension in extensions},
        in_place=_in_place(
            tbs,
            _VERSION_3 + integer(wanted.serial) + algorithm_der(issuer.curve),
            issuer.subject.public_bytes(),
            tlv(0x30, _time(wanted.not_before) + _time(wanted.not_after)),
            _subject_der(wanted),
            wanted.key.spki_der,
            _EXTENSIONS_TAG,
        ),
        wanted=wanted,
        issuer=issuer,
        rules=rules,
    )
    try:
        for check in _CHECKS:
            check(parsed)
    except ValueError as error:
        raise LintError("der", f"a part cannot be parsed: {error}") from error


def _in_place(tbs: bytes, *parts: bytes) -> int:
    """Count how many of `parts` follow the header of `tbs` without gaps, in this order."""
    at = 2 + (tbs[1] & 0x7F if tbs[1] & 0x80 else 0)
    for count, part in enumerate(parts):
        if not tbs.startswith(part, at):
            return count
        at += len(part)
    return len(parts)


def _time(when: datetime) -> bytes:
    """Encode a date (RFC 5280 section 4.1.2.5): UTCTime up to 2049, GeneralizedTime from 2050; whole seconds, Z."""
    if when.year < 2050:
        return tlv(0x17, f"{when:%y%m%d%H%M%SZ}".encode())
    return tlv(0x18, f"{when:%Y%m%d%H%M%SZ}".encode())


def _parse(tbs: bytes, issuer: Issuer) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(assemble(tbs, issuer.curve, b"\x00"))
        same = certificate.tbs_certificate_bytes == tbs
    except (ValueError, x509.InvalidVersion) as error:
        raise LintError("der", f"not a TBSCertificate: {error}") from error
    if not same:
        raise LintError("der", "bytes follow the TBSCertificate")
    return certificate


def _require(rule: str, holds: bool, detail: str) -> None:
    if not holds:
        raise LintError(rule, detail)


def _version(parsed: _Parsed) -> None:
    _require("version", parsed.certificate.version == x509.Version.v3, "not X.509 v3")


def _serial(parsed: _Parsed) -> None:
    serial = parsed.certificate.serial_number
    _require("serial_wanted", serial == parsed.wanted.serial, "not the serial that was chosen for this certificate")
    _require("serial_size", 2**127 < serial < 2**159, "not positive, shorter than 128 bits, or longer than 20 bytes")


def _algorithm(parsed: _Parsed) -> None:
    # Compared as bytes: the library returns the algorithm beside the signature, not the one in the signed part.
    _require("algorithm", parsed.begins(1), "the inner algorithm is not the issuer's")


def _issuer(parsed: _Parsed) -> None:
    _require(
        "issuer_authority",
        parsed.issuer.authority.startswith(f"{parsed.issuer.name}-"),
        "the CA's id does not begin with its class",
    )
    _require(
        "issuer_class",
        parsed.issuer.name in parsed.rules.issuer,
        f"a {parsed.issuer.name} CA does not issue this profile",
    )
    _require("issuer", parsed.begins(2), "the issuer name is not the CA's subject")


def _validity(parsed: _Parsed) -> None:
    start, end = parsed.certificate.not_valid_before_utc, parsed.certificate.not_valid_after_utc
    same = start == parsed.wanted.not_before and end == parsed.wanted.not_after
    _require("validity_wanted", same, "not the dates that were chosen for this certificate")
    _require("validity_order", start < end, "notAfter is not after notBefore")
    _require("validity_life", end - start <= parsed.rules.life_max, f"valid for longer than {parsed.rules.life_max}")
    within = parsed.issuer.not_before <= start and end <= parsed.issuer.not_after
    _require("validity_issuer", within, "outside of the issuing CA's dates")
    _require("validity_encoding", parsed.begins(3), "the dates are not encoded in DER")


def _subject_der(wanted: Wanted) -> bytes:
    """Encode the subject: the CN as UTF8String and, for nodes, the serialNumber as PrintableString."""
    text = wanted.common_name.encode()
    names = tlv(0x31, tlv(0x30, _COMMON_NAME + tlv(0x0C, text)))
    if wanted.profile in ("device", "session"):
        number = str(wanted.generation).encode()
        names += tlv(0x31, tlv(0x30, _SERIAL_NUMBER + tlv(0x13, number)))
    return tlv(0x30, names)


def _subject(parsed: _Parsed) -> None:
    if parsed.wanted.profile in ("device", "session"):
        _require("generation", parsed.wanted.generation >= 1, "a node's certificate without a generation")
    name = parsed.wanted.common_name
    _require("common_name", 1 <= len(name) <= 64 and name.isprintable(), "not 1 to 64 printable characters")
    _require("subject", parsed.begins(4), "not exactly the attributes of this profile")


def _key(parsed: _Parsed) -> None:
    # Compared as bytes: parsing the key again would take longer than all other rules together.
    _require("key", parsed.begins(5), "not the key of the certificate request")
    _require("unique_id", parsed.begins(6), "bytes between the key and the extensions")
    curve = parsed.wanted.key.public_key.curve.name
    _require("curve", curve in parsed.rules.curves, f"{curve} is not allowed in this profile")


def _extension_set(parsed: _Parsed) -> None:
    strange = sorted(parsed.critical.keys() ^ parsed.rules.extensions.keys())
    _require("extension_set", not strange, f"missing, or not in this profile: {', '.join(strange)}")
    _require(
        "criticality", parsed.critical == parsed.rules.extensions, "an extension's criticality is not the profile's"
    )


def _constraints(parsed: _Parsed) -> None:
    value = parsed.value(x509.BasicConstraints)
    same = (value.ca, value.path_length) == (parsed.rules.is_ca, parsed.rules.path_length)
    _require("basic_constraints", same, f"CA {value.ca}, path length {value.path_length}")


def _key_usage(parsed: _Parsed) -> None:
    value = parsed.value(x509.KeyUsage)
    found = {name for name in _USAGES if getattr(value, name)}
    _require("key_usage", found == parsed.rules.key_usage, f"is {sorted(found)}")
    literal = _CA_USAGE_DER if parsed.rules.is_ca else _LEAF_USAGE_DER
    # A BIT STRING whose unused bits are set has the same value but is not DER.
    _require("key_usage", literal in parsed.tbs, "not encoded in DER")


def _purposes(parsed: _Parsed) -> None:
    if not parsed.rules.has(_EXTENDED_KEY_USAGE):
        return
    value = parsed.value(x509.ExtendedKeyUsage)
    found = tuple(purpose.dotted_string for purpose in value)
    _require("extended_key_usage", found == parsed.rules.purposes, f"is {found}")


def _names(parsed: _Parsed) -> None:
    if not parsed.rules.has(_ALTERNATIVE_NAME):
        return
    names = parsed.value(x509.SubjectAlternativeName)
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    _require("one_uri", len(uris) == 1, f"{len(uris)} URI names; a SPIFFE verifier accepts exactly one")
    wanted = parsed.wanted
    _require("spiffe", uris[0] == str(wanted.spiffe), "not the SPIFFE id that was chosen for this certificate")
    kind = "service" if wanted.profile == "service" else "tenant"
    path_fits = uris[0].startswith(f"spiffe://{getattr(wanted.spiffe, 'trust_domain', '')}/{kind}/")
    _require("spiffe_class", path_fits, "the SPIFFE path does not fit the profile")
    hosts = [name.value for name in names if not isinstance(name, x509.UniformResourceIdentifier)]
    expected = [*wanted.dns_names, *wanted.addresses] if wanted.profile == "service" else []
    _require("hosts", hosts == expected, "the DNS or IP names differ from the recorded names")


def _key_ids(parsed: _Parsed) -> None:
    own = parsed.value(x509.SubjectKeyIdentifier)
    _require("subject_key_id", own.digest == parsed.wanted.key.key_id, "not the identifier of the key")
    authority = parsed.value(x509.AuthorityKeyIdentifier)
    bare = authority.authority_cert_issuer is None and authority.authority_cert_serial_number is None
    same = authority.key_identifier == parsed.issuer.key_id and bare
    _require("authority_key_id", same, "not exactly the identifier of the CA's key")


def _no_revocation(parsed: _Parsed) -> None:
    """The values of noRevAvail (RFC 9608 section 2) and id-pkix-ocsp-nocheck (RFC 6960 section 4.2.2.2.1) are NULL."""
    if parsed.rules.has(_NO_REV_AVAIL):
        found = parsed.value(x509.UnrecognizedExtension)
        same = found.oid.dotted_string == _NO_REV_AVAIL and found.value == b"\x05\x00"
        _require("no_rev_avail", same, "noRevAvail is not NULL")
    if parsed.rules.has(_NO_CHECK):
        _require("no_check", _NO_CHECK_DER in parsed.tbs, "id-pkix-ocsp-nocheck is not NULL")


def _constrained(parsed: _Parsed) -> None:
    """Name constraints (RFC 5280 section 4.2.1.10), compared as bytes. `_extension_set` has checked the criticality."""
    if not parsed.rules.has(_NAME_CONSTRAINTS):
        return
    wanted = parsed.wanted
    of_class = wanted.ca in ("nodes", "services") and _HOST.fullmatch(wanted.trust_domain) is not None
    _require("constrained_class", of_class, "the CA has no class (nodes or services) or no trust domain")
    named = wanted.common_name.startswith(f"{wanted.trust_domain} {wanted.ca} CA ")
    _require("constrained_name", named, "the CA's name does not begin with its trust domain and class")
    content = tlv(0xA0, sequence(tlv(0x86, wanted.trust_domain.encode())))
    if wanted.ca == "nodes":
        content += tlv(0xA1, sequence(b"\x82\x00") + sequence(tlv(0x87, bytes(8))) + sequence(tlv(0x87, bytes(32))))
    expected = sequence(_NAME_CONSTRAINTS_HEAD, octet_string(sequence(content)))
    _require("name_constraints", expected in parsed.tbs, "not the constraints of this class and trust domain")


def _distribution(parsed: _Parsed) -> None:
    """One CRL, one OCSP responder and one CA certificate, each of the CA that signs the certificate."""
    where = parsed.wanted.distribution
    needed = parsed.rules.has(_CRL_POINTS)
    _require("distribution", (where is not None) == needed, "addresses are missing, or this profile has no addresses")
    if where is None:
        return
    urls = (where.crl_url, where.ocsp_url, where.ca_url)
    _require("distribution_url", all(map(_URL.fullmatch, urls)), "not an absolute http URL of at most 255 characters")
    authority = parsed.issuer.authority
    _, _, shard = where.crl_url.rpartition(f"/crl/{authority}/")
    own = _SHARD_FILE.fullmatch(shard) is not None and where.ca_url.endswith(f"/ca/{authority}.cer")
    _require("distribution_authority", own, f"the CRL or CA address is not one of {authority}")
    crl, ocsp, ca = (tlv(0x86, url.encode()) for url in urls)
    points = sequence(_CRL_POINTS_HEAD, octet_string(sequence(sequence(tlv(0xA0, tlv(0xA0, crl))))))
    _require("crl_points", points in parsed.tbs, "not the CRL address that was chosen for this certificate")
    access = sequence(sequence(_ACCESS_OCSP, ocsp), sequence(_ACCESS_CA, ca))
    access = sequence(_INFORMATION_ACCESS_HEAD, octet_string(access))
    _require(
        "information_access",
        access in parsed.tbs,
        "not the OCSP and CA addresses that were chosen for this certificate",
    )


_CHECKS: tuple[Callable[[_Parsed], None], ...] = (
    _version,
    _serial,
    _algorithm,
    _issuer,
    _validity,
    _subject,
    _key,
    _extension_set,
    _constraints,
    _key_usage,
    _purposes,
    _names,
    _key_ids,
    _no_revocation,
    _constrained,
    _distribution,
)

_VERSION_3 = bytes.fromhex("a003020102")
_EXTENSIONS_TAG = b"\xa3"
_LEAF_USAGE_DER = bytes.fromhex("0603551d0f0101ff040403020780")
_CA_USAGE_DER = bytes.fromhex("0603551d0f0101ff040403020106")
_NO_CHECK_DER = bytes.fromhex("300f06092b060105050730010504020500")
_NAME_CONSTRAINTS_HEAD = bytes.fromhex("0603551d1e0101ff")
_CRL_POINTS_HEAD = bytes.fromhex("0603551d1f")
_INFORMATION_ACCESS_HEAD = bytes.fromhex("06082b06010505070101")
_ACCESS_OCSP = bytes.fromhex("06082b06010505073001")
_ACCESS_CA = bytes.fromhex("06082b06010505073002")
_SHARD_FILE = re.compile(r"[0-9]{1,9}\.crl")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?")
_URL = re.compile(
    r"(?=.{1,255}$)http://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)+"
)
