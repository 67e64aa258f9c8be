"""The last look at a to-be-signed certificate before a CA key is used: every rule of the profiles, a second time.

Pure, and written apart from `profiles.py`: it reads only the bytes and what was wanted, so a mistake must be made
twice to be signed. Only a clean lint makes a `Linted`, and the signer takes nothing else. pkilint, the general
linter, takes milliseconds for a certificate and knows no profile; this takes a fifth of one.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import msgspec
from cryptography import x509

from cloud.breakwater.errors import LintError
from cloud.breakwater.profiles import CaName, Issuer, Wanted

E = TypeVar("E", bound=x509.ExtensionType)

_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_EXTENDED_KEY_USAGE = "2.5.29.37"
_ALTERNATIVE_NAME = "2.5.29.17"
_SUBJECT_KEY = "2.5.29.14"
_AUTHORITY_KEY = "2.5.29.35"
_NO_REV_AVAIL = "2.5.29.56"
_COMMON_NAME = bytes.fromhex("0603550403")
_SERIAL_NUMBER = bytes.fromhex("0603550405")
_EC_CURVES = {"device": ("secp256r1",), "session": ("secp256r1",), "service": ("secp256r1", "secp384r1")}
_CA_CURVES = {"root": ("secp384r1",), "issuing": ("secp256r1", "secp384r1")}


class Rules(msgspec.Struct, frozen=True):
    """What a profile fixes. `extensions` is the exact set, OID -> critical."""

    extensions: dict[str, bool]
    is_ca: bool
    path_length: int | None
    key_usage: frozenset[str]
    purposes: tuple[str, ...]
    life_max: timedelta
    issuer: tuple[CaName, ...]


_CA_EXTENSIONS = {_BASIC_CONSTRAINTS: True, _KEY_USAGE: True, _SUBJECT_KEY: False, _AUTHORITY_KEY: False}
_LEAF_EXTENSIONS = _CA_EXTENSIONS | {_EXTENDED_KEY_USAGE: False, _ALTERNATIVE_NAME: False}
_LEAF = frozenset({"digital_signature"})
_CA = frozenset({"key_cert_sign", "crl_sign"})
_CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
_DEVICE = "2.25.238106524351137287"

RULES: dict[str, Rules] = {
    "root": Rules(_CA_EXTENSIONS, True, 1, _CA, (), timedelta(days=7300), ("root",)),
    "issuing": Rules(_CA_EXTENSIONS, True, 0, _CA, (), timedelta(days=3650), ("root",)),
    "device": Rules(_LEAF_EXTENSIONS, False, None, _LEAF, (_DEVICE,), timedelta(days=1095), ("nodes",)),
    "session": Rules(
        _LEAF_EXTENSIONS | {_NO_REV_AVAIL: False},
        False,
        None,
        _LEAF,
        (_CLIENT_AUTH,),
        timedelta(hours=12),
        ("nodes",),
    ),
    "service": Rules(
        _LEAF_EXTENSIONS, False, None, _LEAF, (_SERVER_AUTH, _CLIENT_AUTH), timedelta(days=30), ("services",)
    ),
}

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
_SEAL = object()


class Linted:
    """To-be-signed bytes that passed every rule, good for one signature by the issuer they name.

    Only `lint` makes one.
    """

    __slots__ = ("_redeemed", "issuer", "tbs")

    def __init__(self, tbs: bytes, issuer: Issuer, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only a clean lint makes a Linted")
        self.tbs = tbs
        self.issuer = issuer
        self._redeemed = False

    def redeem(self) -> bytes:
        """The bytes, once. Raises LintError the second time: a record is signed once or never."""
        if self._redeemed:
            raise LintError("redeemed", "this to-be-signed certificate was signed already")
        self._redeemed = True
        return self.tbs


class _Look(msgspec.Struct, frozen=True):
    """What the rules look at."""

    certificate: x509.Certificate
    tbs: bytes
    critical: dict[str, bool]
    values: dict[type[x509.ExtensionType], x509.ExtensionType]
    head: bytes
    subject: bytes
    wanted: Wanted
    issuer: Issuer
    rules: Rules

    def value(self, kind: type[E]) -> E:
        """The extension of a kind. Raises LintError."""
        value = self.values.get(kind)
        if not isinstance(value, kind):
            raise LintError("extension_set", f"no {kind.__name__}")
        return value


def lint(tbs: bytes, wanted: Wanted, issuer: Issuer) -> Linted:
    """Check the bytes against every rule of the profile. Raises LintError naming the first that is broken."""
    rules = RULES[wanted.profile]
    certificate = _parse(tbs, issuer)
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise LintError("extensions", f"cannot be read, or one stands twice: {error}") from error
    look = _Look(
        certificate=certificate,
        tbs=tbs,
        critical={extension.oid.dotted_string: extension.critical for extension in extensions},
        values={type(extension.value): extension.value for extension in extensions},
        head=_head(wanted, issuer),
        subject=_subject_der(wanted),
        wanted=wanted,
        issuer=issuer,
        rules=rules,
    )
    try:
        for check in _CHECKS:
            check(look)
    except ValueError as error:
        raise LintError("der", f"a part cannot be read: {error}") from error
    return Linted(tbs, issuer, _SEAL)


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


def _head(wanted: Wanted, issuer: Issuer) -> bytes:
    """What must stand first inside the structure: version, serial and the issuer's algorithm."""
    algorithm = _ECDSA_SHA384 if issuer.curve == "secp384r1" else _ECDSA_SHA256
    serial = wanted.serial
    return _VERSION_3 + _tlv(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big")) + algorithm


def _starts_with(tbs: bytes, expected: bytes) -> bool:
    return tbs.startswith(expected, 2 + (tbs[1] & 0x7F if tbs[1] & 0x80 else 0))


def _algorithm(look: _Look) -> None:
    # Read from the bytes: the library gives the algorithm beside the signature, not the one inside what is signed.
    _require("algorithm", _starts_with(look.tbs, look.head), "the inner algorithm is not the issuer's")


def _issuer(look: _Look) -> None:
    _require("issuer_class", look.issuer.name in look.rules.issuer, f"{look.issuer.name} does not issue this kind")
    same = _starts_with(look.tbs, look.head + look.issuer.subject.public_bytes())
    _require("issuer", same, "the issuer's name is not the CA's subject")


def _validity(look: _Look) -> None:
    start, end = look.certificate.not_valid_before_utc, look.certificate.not_valid_after_utc
    same = start == look.wanted.not_before and end == look.wanted.not_after
    _require("validity_wanted", same, "not the dates that were decided")
    _require("validity_order", start < end, "notAfter is not after notBefore")
    _require("validity_life", end - start <= look.rules.life_max, f"lives longer than {look.rules.life_max}")
    within = look.issuer.not_before <= start and end <= look.issuer.not_after
    _require("validity_issuer", within, "outside of the issuing CA's own dates")


def _subject_der(wanted: Wanted) -> bytes:
    """The one encoding of the subject: a UTF8String CN and, for nodes, a PrintableString serialNumber."""
    text = wanted.common_name.encode()
    names = _tlv(0x31, _tlv(0x30, _COMMON_NAME + _tlv(0x0C, text)))
    if wanted.profile in ("device", "session"):
        number = str(wanted.generation).encode()
        names += _tlv(0x31, _tlv(0x30, _SERIAL_NUMBER + _tlv(0x13, number)))
    return _tlv(0x30, names)


def _subject(look: _Look) -> None:
    if look.wanted.profile in ("device", "session"):
        _require("generation", look.wanted.generation >= 1, "a node's certificate without a generation")
    # The notAfter before it ends in `Z`, the key after it begins with the SEQUENCE of its SubjectPublicKeyInfo.
    same = b"Z" + look.subject + b"\x30" in look.tbs
    _require("subject", same, "not exactly the names of this profile")


def _key(look: _Look) -> None:
    # Subject and key stand side by side in the structure (RFC 5280 section 4.1). Compared as bytes: parsing the key a
    # second time would cost more than all other rules together.
    expected = look.subject + look.wanted.key.spki_der
    _require("key", expected in look.tbs, "not the key whose possession was proved")
    curves = (_EC_CURVES | _CA_CURVES)[look.wanted.profile]
    curve = look.wanted.key.public_key.curve.name
    _require("curve", curve in curves, f"{curve} is not allowed in this profile")


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
    if look.rules.is_ca:
        return
    value = look.value(x509.ExtendedKeyUsage)
    found = tuple(purpose.dotted_string for purpose in value)
    _require("extended_key_usage", found == look.rules.purposes, f"is {found}")


def _names(look: _Look) -> None:
    if look.rules.is_ca:
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
    if look.wanted.profile != "session":
        return
    found = look.value(x509.UnrecognizedExtension)
    same = found.oid.dotted_string == _NO_REV_AVAIL and found.value == b"\x05\x00"
    _require("no_rev_avail", same, "noRevAvail is not NULL (RFC 9608 section 2)")


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
)

_VERSION_3 = bytes.fromhex("a003020102")
_LEAF_USAGE_DER = bytes.fromhex("0603551d0f0101ff040403020780")
_CA_USAGE_DER = bytes.fromhex("0603551d0f0101ff040403020106")
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")


def _tlv(tag: int, content: bytes) -> bytes:
    """One DER element (X.690 section 8.1.3)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def assemble(tbs: bytes, curve: str, signature: bytes) -> bytes:
    """A Certificate (RFC 5280 section 4.1.1) of exactly these to-be-signed bytes and an ECDSA signature.

    Done by hand because no library signs bytes that were recorded before: it would build them anew.
    """
    algorithm = _ECDSA_SHA384 if curve == "secp384r1" else _ECDSA_SHA256
    return _tlv(0x30, tbs + algorithm + _tlv(0x03, b"\x00" + signature))
