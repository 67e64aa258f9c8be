"""Pure: the lint of a to-be-signed certificate before a CA key is used. It holds every rule of the profiles again.

It is written apart from `profiles.py` and reads only the bytes and what was wanted, so a mistake must be made twice to
be signed. Only a clean lint makes a `Linted`, the only thing that the signer accepts. Each version of a profile keeps
its rules: `lint` accepts the newest version alone, `relint` checks what was issued under any. pkilint, a general linter,
takes milliseconds a certificate and knows no profile; this lint takes a tenth of a millisecond.
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
    """What a profile fixes. `extensions` is the exact set, OID -> critical."""

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
        """Whether certificates of this profile carry an extension."""
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
"""By profile and version. A version that anything was ever issued under stays, for `relint`."""

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


class _Look(msgspec.Struct, frozen=True):
    """What the rules look at."""

    certificate: x509.Certificate
    tbs: bytes
    critical: dict[str, bool]
    values: dict[type[x509.ExtensionType], x509.ExtensionType]
    in_place: int
    wanted: Wanted
    issuer: Issuer
    rules: Rules

    def value(self, kind: type[E]) -> E:
        """The extension of a kind. Raises LintError."""
        value = self.values.get(kind)
        if not isinstance(value, kind):
            raise LintError("extension_set", f"no {kind.__name__}")
        return value

    def begins(self, count: int) -> bool:
        """Whether the bytes begin with the first `count` parts, in their one encoding."""
        return self.in_place >= count


def lint(tbs: bytes, wanted: Wanted, issuer: Issuer) -> Linted:
    """Check the bytes against every rule of the profile. Raises LintError naming the first that is broken."""
    _require("profile_version", wanted.version == _NEWEST, f"version {wanted.version} is not signed any more")
    _look_at(_parse(tbs, issuer), tbs, wanted, issuer)
    return passed(tbs, issuer)


def relint(certificate: x509.Certificate, issuer: Issuer, profile: str, version: int, now: datetime) -> None:
    """Check what was issued against every rule of its profile's version. Raises LintError as `lint` does.

    Makes nothing that could be signed. What was wanted is read back from the certificate, so this holds its form;
    whether it is what the record says, and who signed it, is for the caller to compare.
    """
    if (profile, version) not in RULES:
        raise LintError("profile_version", f"there never was a version {version} of the profile {profile}")
    _require("validity_future", certificate.not_valid_before_utc <= now, "begins in the future")
    try:
        wanted = reread(certificate, profile, version)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, IdError) as error:
        raise LintError("der", f"cannot be read back: {error}") from error
    _look_at(certificate, certificate.tbs_certificate_bytes, wanted, issuer)


def _look_at(certificate: x509.Certificate, tbs: bytes, wanted: Wanted, issuer: Issuer) -> None:
    rules = RULES[wanted.profile, wanted.version]
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise LintError("extensions", f"cannot be read, or one stands twice: {error}") from error
    look = _Look(
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
            check(look)
    except ValueError as error:
        raise LintError("der", f"a part cannot be read: {error}") from error


def _in_place(tbs: bytes, *parts: bytes) -> int:
    """How many of these parts the bytes begin with, one after the other, behind their header."""
    at = 2 + (tbs[1] & 0x7F if tbs[1] & 0x80 else 0)
    for count, part in enumerate(parts):
        if not tbs.startswith(part, at):
            return count
        at += len(part)
    return len(parts)


def _time(when: datetime) -> bytes:
    """RFC 5280 section 4.1.2.5: UTCTime to 2049, GeneralizedTime from then on; whole seconds, Z."""
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
        raise LintError("der", "bytes stand after the TBSCertificate")
    return certificate


def _require(rule: str, holds: bool, detail: str) -> None:
    if not holds:
        raise LintError(rule, detail)


def _version(look: _Look) -> None:
    _require("version", look.certificate.version == x509.Version.v3, "not X.509 v3")


def _serial(look: _Look) -> None:
    serial = look.certificate.serial_number
    _require("serial_wanted", serial == look.wanted.serial, "not the serial that was drawn and recorded")
    _require("serial_size", 2**127 < serial < 2**159, "not positive, too short to be random, or over 20 bytes")


def _algorithm(look: _Look) -> None:
    # Read from the bytes: the library gives the algorithm beside the signature, not the one inside what is signed.
    _require("algorithm", look.begins(1), "the inner algorithm is not the issuer's")


def _issuer(look: _Look) -> None:
    _require("issuer_authority", look.issuer.authority.startswith(f"{look.issuer.name}-"), "is of another class")
    _require("issuer_class", look.issuer.name in look.rules.issuer, f"{look.issuer.name} does not issue this kind")
    _require("issuer", look.begins(2), "the issuer's name is not the CA's subject")


def _validity(look: _Look) -> None:
    start, end = look.certificate.not_valid_before_utc, look.certificate.not_valid_after_utc
    same = start == look.wanted.not_before and end == look.wanted.not_after
    _require("validity_wanted", same, "not the dates that were decided")
    _require("validity_order", start < end, "notAfter is not after notBefore")
    _require("validity_life", end - start <= look.rules.life_max, f"lives longer than {look.rules.life_max}")
    within = look.issuer.not_before <= start and end <= look.issuer.not_after
    _require("validity_issuer", within, "outside of the issuing CA's own dates")
    _require("validity_encoding", look.begins(3), "the dates are not in their one encoding")


def _subject_der(wanted: Wanted) -> bytes:
    """The one encoding of the subject: a UTF8String CN and, for nodes, a PrintableString serialNumber."""
    text = wanted.common_name.encode()
    names = tlv(0x31, tlv(0x30, _COMMON_NAME + tlv(0x0C, text)))
    if wanted.profile in ("device", "session"):
        number = str(wanted.generation).encode()
        names += tlv(0x31, tlv(0x30, _SERIAL_NUMBER + tlv(0x13, number)))
    return tlv(0x30, names)


def _subject(look: _Look) -> None:
    if look.wanted.profile in ("device", "session"):
        _require("generation", look.wanted.generation >= 1, "a node's certificate without a generation")
    name = look.wanted.common_name
    _require("common_name", 1 <= len(name) <= 64 and name.isprintable(), "is not 1 to 64 printable letters")
    _require("subject", look.begins(4), "not exactly the names of this profile")


def _key(look: _Look) -> None:
    # Compared as bytes: parsing the key a second time would cost more than all other rules together.
    _require("key", look.begins(5), "not the key whose possession was proved")
    _require("unique_id", look.begins(6), "something stands between the key and the extensions")
    curve = look.wanted.key.public_key.curve.name
    _require("curve", curve in look.rules.curves, f"{curve} is not allowed in this profile")


def _extension_set(look: _Look) -> None:
    strange = sorted(look.critical.keys() ^ look.rules.extensions.keys())
    _require("extension_set", not strange, f"missing or not of this profile: {', '.join(strange)}")
    _require("criticality", look.critical == look.rules.extensions, "an extension's criticality is not the profile's")


def _constraints(look: _Look) -> None:
    value = look.value(x509.BasicConstraints)
    same = (value.ca, value.path_length) == (look.rules.is_ca, look.rules.path_length)
    _require("basic_constraints", same, f"CA {value.ca}, path length {value.path_length}")


def _key_usage(look: _Look) -> None:
    value = look.value(x509.KeyUsage)
    found = {name for name in _USAGES if getattr(value, name)}
    _require("key_usage", found == look.rules.key_usage, f"is {sorted(found)}")
    literal = _CA_USAGE_DER if look.rules.is_ca else _LEAF_USAGE_DER
    # A BIT STRING with bits set beyond its length reads the same and is no DER.
    _require("key_usage", literal in look.tbs, "is not in its one encoding")


def _purposes(look: _Look) -> None:
    if not look.rules.has(_EXTENDED_KEY_USAGE):
        return
    value = look.value(x509.ExtendedKeyUsage)
    found = tuple(purpose.dotted_string for purpose in value)
    _require("extended_key_usage", found == look.rules.purposes, f"is {found}")


def _names(look: _Look) -> None:
    if not look.rules.has(_ALTERNATIVE_NAME):
        return
    names = look.value(x509.SubjectAlternativeName)
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    _require("one_uri", len(uris) == 1, f"{len(uris)} URI names; a SPIFFE verifier refuses any number but one")
    wanted = look.wanted
    _require("spiffe", uris[0] == str(wanted.spiffe), "the URI is not the SPIFFE id that was wanted")
    kind = "service" if wanted.profile == "service" else "tenant"
    path_fits = uris[0].startswith(f"spiffe://{getattr(wanted.spiffe, 'trust_domain', '')}/{kind}/")
    _require("spiffe_class", path_fits, "the SPIFFE path is of another class than the profile")
    hosts = [name.value for name in names if not isinstance(name, x509.UniformResourceIdentifier)]
    expected = [*wanted.dns_names, *wanted.addresses] if wanted.profile == "service" else []
    _require("hosts", hosts == expected, "DNS or IP names other than the recorded ones")


def _key_ids(look: _Look) -> None:
    own = look.value(x509.SubjectKeyIdentifier)
    _require("subject_key_id", own.digest == look.wanted.key.key_id, "not the identifier of the key")
    authority = look.value(x509.AuthorityKeyIdentifier)
    bare = authority.authority_cert_issuer is None and authority.authority_cert_serial_number is None
    same = authority.key_identifier == look.issuer.key_id and bare
    _require("authority_key_id", same, "not the identifier of the CA's key, or more than it")


def _no_revocation(look: _Look) -> None:
    """RFC 9608 section 2, and RFC 6960 section 4.2.2.2.1: both are NULL."""
    if look.rules.has(_NO_REV_AVAIL):
        found = look.value(x509.UnrecognizedExtension)
        same = found.oid.dotted_string == _NO_REV_AVAIL and found.value == b"\x05\x00"
        _require("no_rev_avail", same, "noRevAvail is not NULL")
    if look.rules.has(_NO_CHECK):
        _require("no_check", _NO_CHECK_DER in look.tbs, "id-pkix-ocsp-nocheck is not NULL")


def _constrained(look: _Look) -> None:
    """RFC 5280 section 4.2.1.10. Compared as bytes; the extension's set and criticality are checked before."""
    if not look.rules.has(_NAME_CONSTRAINTS):
        return
    wanted = look.wanted
    of_class = wanted.ca in ("nodes", "services") and _HOST.fullmatch(wanted.trust_domain) is not None
    _require("constrained_class", of_class, "an issuing CA is for nodes or services, of a trust domain")
    named = wanted.common_name.startswith(f"{wanted.trust_domain} {wanted.ca} CA ")
    _require("constrained_name", named, "the CA's name does not say its trust domain and class")
    content = tlv(0xA0, sequence(tlv(0x86, wanted.trust_domain.encode())))
    if wanted.ca == "nodes":
        content += tlv(0xA1, sequence(b"\x82\x00") + sequence(tlv(0x87, bytes(8))) + sequence(tlv(0x87, bytes(32))))
    expected = sequence(_NAME_CONSTRAINTS_HEAD, octet_string(sequence(content)))
    _require("name_constraints", expected in look.tbs, "not those of this class and trust domain")


def _distribution(look: _Look) -> None:
    """Where to ask about the certificate: one CRL, one responder, one issuer, of the authority that signs it."""
    where = look.wanted.distribution
    needed = look.rules.has(_CRL_POINTS)
    _require("distribution", (where is not None) == needed, "asked for where there is none, or the other way round")
    if where is None:
        return
    urls = (where.crl_url, where.ocsp_url, where.ca_url)
    _require("distribution_url", all(map(_URL.fullmatch, urls)), "not an absolute http URL of at most 255 letters")
    authority = look.issuer.authority
    _, _, shard = where.crl_url.rpartition(f"/crl/{authority}/")
    own = _SHARD_FILE.fullmatch(shard) is not None and where.ca_url.endswith(f"/ca/{authority}.cer")
    _require("distribution_authority", own, f"the CRL or CA certificate is not of {authority}")
    crl, ocsp, ca = (tlv(0x86, url.encode()) for url in urls)
    points = sequence(_CRL_POINTS_HEAD, octet_string(sequence(sequence(tlv(0xA0, tlv(0xA0, crl))))))
    _require("crl_points", points in look.tbs, "not the one CRL that was wanted")
    access = sequence(sequence(_ACCESS_OCSP, ocsp), sequence(_ACCESS_CA, ca))
    access = sequence(_INFORMATION_ACCESS_HEAD, octet_string(access))
    _require("information_access", access in look.tbs, "not the responder and issuer that were wanted")


_CHECKS: tuple[Callable[[_Look], None], ...] = (
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
