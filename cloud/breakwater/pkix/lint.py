"""Pure functions: lint a to-be-signed certificate against every rule of its profile before a CA key is used.

The lint was written independently of `profiles.py` and reads only the bytes and the `Wanted`. A wrong certificate gets
a signature only if both files contain the same mistake. `lint` returns a `Linted`, and the signer accepts only that.
The rules of old profile versions stay: `lint` accepts only the newest version, `relint` checks issued certificates of
every version. This lint takes 0.1 ms. pkilint, a general linter, takes several ms and does not know our profiles.
"""

import re
from collections.abc import Callable
from datetime import datetime

from cryptography import x509

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix.csr import KEY_USAGES
from cloud.breakwater.pkix.lint_revocation import distribution, no_revocation, root_crl
from cloud.breakwater.pkix.lint_rules import (
    ALTERNATIVE_NAME,
    CRL_POINTS,
    EXTENDED_KEY_USAGE,
    NAME_CONSTRAINTS,
    NEWEST,
    RULES,
    Parsed,
    require,
)
from cloud.breakwater.pkix.linted import Linted, algorithm_der, assemble, passed
from cloud.breakwater.pkix.profiles import Issuer, Wanted
from cloud.breakwater.pkix.reread import reread
from cloud.crypto.der import integer, octet_string, sequence, tlv
from protocol.ids import IdError

__all__ = ["RULES", "Linted", "assemble", "lint", "relint"]

_COMMON_NAME = bytes.fromhex("0603550403")
_SERIAL_NUMBER = bytes.fromhex("0603550405")


def lint(tbs: bytes, wanted: Wanted, issuer: Issuer) -> Linted:
    """Check a TBSCertificate in DER against every rule of its profile's newest version.

    Raises:
        LintError: `rule` is the name of the first broken rule.
    """
    require("profile_version", wanted.version == NEWEST, f"version {wanted.version} is no longer issued")
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
    require("validity_future", certificate.not_valid_before_utc <= now, "begins in the future")
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
    parsed = Parsed(
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


def _version(parsed: Parsed) -> None:
    require("version", parsed.certificate.version == x509.Version.v3, "not X.509 v3")


def _serial(parsed: Parsed) -> None:
    serial = parsed.certificate.serial_number
    require("serial_wanted", serial == parsed.wanted.serial, "not the serial that was chosen for this certificate")
    require("serial_size", 2**127 < serial < 2**159, "not positive, shorter than 128 bits, or longer than 20 bytes")


def _algorithm(parsed: Parsed) -> None:
    # Compared as bytes: the library returns the algorithm beside the signature, not the one in the signed part.
    require("algorithm", parsed.begins(1), "the inner algorithm is not the issuer's")


def _issuer(parsed: Parsed) -> None:
    require(
        "issuer_authority",
        parsed.issuer.authority.startswith(f"{parsed.issuer.name}-"),
        "the CA's id does not begin with its class",
    )
    require(
        "issuer_class",
        parsed.issuer.name in parsed.rules.issuer,
        f"a {parsed.issuer.name} CA does not issue this profile",
    )
    require("issuer", parsed.begins(2), "the issuer name is not the CA's subject")


def _validity(parsed: Parsed) -> None:
    start, end = parsed.certificate.not_valid_before_utc, parsed.certificate.not_valid_after_utc
    same = start == parsed.wanted.not_before and end == parsed.wanted.not_after
    require("validity_wanted", same, "not the dates that were chosen for this certificate")
    require("validity_order", start < end, "notAfter is not after notBefore")
    require("validity_life", end - start <= parsed.rules.life_max, f"valid for longer than {parsed.rules.life_max}")
    within = parsed.issuer.not_before <= start and end <= parsed.issuer.not_after
    require("validity_issuer", within, "outside of the issuing CA's dates")
    require("validity_encoding", parsed.begins(3), "the dates are not encoded in DER")


def _subject_der(wanted: Wanted) -> bytes:
    """Encode the subject: the CN as UTF8String and, for nodes, the serialNumber as PrintableString."""
    text = wanted.common_name.encode()
    names = tlv(0x31, tlv(0x30, _COMMON_NAME + tlv(0x0C, text)))
    if wanted.profile in ("device", "session"):
        number = str(wanted.generation).encode()
        names += tlv(0x31, tlv(0x30, _SERIAL_NUMBER + tlv(0x13, number)))
    return tlv(0x30, names)


def _subject(parsed: Parsed) -> None:
    if parsed.wanted.profile in ("device", "session"):
        require("generation", parsed.wanted.generation >= 1, "a node's certificate without a generation")
    name = parsed.wanted.common_name
    require("common_name", 1 <= len(name) <= 64 and name.isprintable(), "not 1 to 64 printable characters")
    require("subject", parsed.begins(4), "not exactly the attributes of this profile")


def _key(parsed: Parsed) -> None:
    # Compared as bytes: parsing the key again would take longer than all other rules together.
    require("key", parsed.begins(5), "not the key of the certificate request")
    require("unique_id", parsed.begins(6), "bytes between the key and the extensions")
    curve = parsed.wanted.key.public_key.curve.name
    require("curve", curve in parsed.rules.curves, f"{curve} is not allowed in this profile")


def _extension_set(parsed: Parsed) -> None:
    expected = parsed.rules.extensions | ({CRL_POINTS: False} if parsed.wanted.crl_url else {})
    strange = sorted(parsed.critical.keys() ^ expected.keys())
    require("extension_set", not strange, f"missing, or not in this profile: {', '.join(strange)}")
    require("criticality", parsed.critical == expected, "an extension's criticality is not the profile's")


def _constraints(parsed: Parsed) -> None:
    value = parsed.value(x509.BasicConstraints)
    same = (value.ca, value.path_length) == (parsed.rules.is_ca, parsed.rules.path_length)
    require("basic_constraints", same, f"CA {value.ca}, path length {value.path_length}")


def _key_usage(parsed: Parsed) -> None:
    value = parsed.value(x509.KeyUsage)
    found = {name for name in KEY_USAGES if getattr(value, name)}
    require("key_usage", found == parsed.rules.key_usage, f"is {sorted(found)}")
    literal = _CA_USAGE_DER if parsed.rules.is_ca else _LEAF_USAGE_DER
    # A BIT STRING whose unused bits are set has the same value but is not DER.
    require("key_usage", literal in parsed.tbs, "not encoded in DER")


def _purposes(parsed: Parsed) -> None:
    if not parsed.rules.has(EXTENDED_KEY_USAGE):
        return
    value = parsed.value(x509.ExtendedKeyUsage)
    found = tuple(purpose.dotted_string for purpose in value)
    require("extended_key_usage", found == parsed.rules.purposes, f"is {found}")


def _names(parsed: Parsed) -> None:
    if not parsed.rules.has(ALTERNATIVE_NAME):
        return
    names = parsed.value(x509.SubjectAlternativeName)
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    require("one_uri", len(uris) == 1, f"{len(uris)} URI names; a SPIFFE verifier accepts exactly one")
    wanted = parsed.wanted
    require("spiffe", uris[0] == str(wanted.spiffe), "not the SPIFFE id that was chosen for this certificate")
    kind = "service" if wanted.profile == "service" else "tenant"
    path_fits = uris[0].startswith(f"spiffe://{getattr(wanted.spiffe, 'trust_domain', '')}/{kind}/")
    require("spiffe_class", path_fits, "the SPIFFE path does not fit the profile")
    hosts = [name.value for name in names if not isinstance(name, x509.UniformResourceIdentifier)]
    expected = [*wanted.dns_names, *wanted.addresses] if wanted.profile == "service" else []
    require("hosts", hosts == expected, "the DNS or IP names differ from the recorded names")


def _key_ids(parsed: Parsed) -> None:
    own = parsed.value(x509.SubjectKeyIdentifier)
    require("subject_key_id", own.digest == parsed.wanted.key.key_id, "not the identifier of the key")
    authority = parsed.value(x509.AuthorityKeyIdentifier)
    bare = authority.authority_cert_issuer is None and authority.authority_cert_serial_number is None
    same = authority.key_identifier == parsed.issuer.key_id and bare
    require("authority_key_id", same, "not exactly the identifier of the CA's key")


def _constrained(parsed: Parsed) -> None:
    """Name constraints (RFC 5280 section 4.2.1.10), compared as bytes. `_extension_set` has checked the criticality."""
    if not parsed.rules.has(NAME_CONSTRAINTS):
        return
    wanted = parsed.wanted
    of_class = wanted.ca in ("nodes", "services") and _HOST.fullmatch(wanted.trust_domain) is not None
    require("constrained_class", of_class, "the CA has no class (nodes or services) or no trust domain")
    named = wanted.common_name.startswith(f"{wanted.trust_domain} {wanted.ca} CA ")
    require("constrained_name", named, "the CA's name does not begin with its trust domain and class")
    content = tlv(0xA0, sequence(tlv(0x86, wanted.trust_domain.encode())))
    if wanted.ca == "nodes":
        content += tlv(0xA1, sequence(b"\x82\x00") + sequence(tlv(0x87, bytes(8))) + sequence(tlv(0x87, bytes(32))))
    expected = sequence(_NAME_CONSTRAINTS_HEAD, octet_string(sequence(content)))
    require("name_constraints", expected in parsed.tbs, "not the constraints of this class and trust domain")


_CHECKS: tuple[Callable[[Parsed], None], ...] = (
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
    no_revocation,
    _constrained,
    distribution,
    root_crl,
)

_VERSION_3 = bytes.fromhex("a003020102")
_EXTENSIONS_TAG = b"\xa3"
_LEAF_USAGE_DER = bytes.fromhex("0603551d0f0101ff040403020780")
_CA_USAGE_DER = bytes.fromhex("0603551d0f0101ff040403020106")
_NAME_CONSTRAINTS_HEAD = bytes.fromhex("0603551d1e0101ff")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?")
