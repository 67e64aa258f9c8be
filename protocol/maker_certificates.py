"""Pure functions: read certificates of TPM makers: EK certificates, and the CA certificates above them.

Makers break rules of DER and of RFC 5280 that do not change what a certificate says: a SET OF in another order, DEFAULT
values that are encoded, NULL parameters where none belong, GeneralizedTime before 2050, serial numbers that are zero,
negative or too long, other string types in a name than in its copy. Libraries refuse such certificates. This module
reads them, and checks signatures over the bytes that the maker signed. Whether a certificate is trusted is decided
elsewhere; the agent only shows what it has read.

A certificate is never encoded again. Sources: RFC 5280; TCG EK Credential Profile for TPM Family 2.0 (`profile`).
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from protocol import asn1
from protocol.asn1 import Asn1Error, Element

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

SUBJECT_KEY_ID = "2.5.29.14"
KEY_USAGE = "2.5.29.15"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
BASIC_CONSTRAINTS = "2.5.29.19"
CERTIFICATE_POLICIES = "2.5.29.32"
AUTHORITY_KEY_ID = "2.5.29.35"
EXTENDED_KEY_USAGE = "2.5.29.37"
EKU_EK_CERTIFICATE = "2.23.133.8.1"
"""tcg-kp-EKCertificate (profile, 3.5.11)."""

DIGITAL_SIGNATURE = 0
KEY_ENCIPHERMENT = 2
KEY_AGREEMENT = 4
KEY_CERT_SIGN = 5
"""Bits of KeyUsage (RFC 5280, 4.2.1.3)."""

RSA_BITS_MIN = 1024
RSA_BITS_MAX = 8192
"""Sizes of RSA keys that are read. A CA that signs must have 2048 bits (`SIGNING_RSA_BITS_MIN`)."""
SIGNING_RSA_BITS_MIN = 2048
RSA_EXPONENT_BITS_MAX = 64
"""A longer exponent makes each check of a signature slow. Makers use 65537."""

_RSA_KEYS = frozenset({"1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7"})
"""rsaEncryption, and id-RSAES-OAEP, which older EK certificates have (RFC 4055, 4.1)."""
_EC_KEY = "1.2.840.10045.2.1"
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1(),
    "1.3.132.0.34": ec.SECP384R1(),
    "1.3.132.0.35": ec.SECP521R1(),
}
_SHA: Mapping[str, hashes.HashAlgorithm] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
_RSA_SIGNATURES: Mapping[str, hashes.HashAlgorithm] = {
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
}
_ECDSA_SIGNATURES: Mapping[str, hashes.HashAlgorithm] = {
    "1.2.840.10045.4.3.2": hashes.SHA256(),
    "1.2.840.10045.4.3.3": hashes.SHA384(),
    "1.2.840.10045.4.3.4": hashes.SHA512(),
}
_RSA_PSS = "1.2.840.113549.1.1.10"

_LABELS = {
    "2.5.4.3": "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.23.133.2.1": "manufacturer",
    "2.23.133.2.2": "model",
    "2.23.133.2.3": "version",
}
"""Short names of attribute types (RFC 4514, 3; TPM attributes of the profile, 3.1.2)."""


class CertificateUnreadable(ValueError):
    """The bytes are no certificate that this module can read. The text says which part."""


class SignatureUnverified(ValueError):
    """A signature does not verify, or cannot be checked. The text says why."""


class Attribute(msgspec.Struct, frozen=True, order=True):
    """One attribute of a name: its type as an object identifier, and its value in the form that is compared."""

    kind: str
    value: str


Name = tuple[tuple[Attribute, ...], ...]
"""A distinguished name in the form that is compared (RFC 5280, 7.1): neither the string type, nor upper and lower case,
nor repeated spaces, nor the order inside a multi-valued part matter."""


class Extension(msgspec.Struct, frozen=True):
    """One extension: whether it is critical, and the contents of its OCTET STRING."""

    critical: bool
    value: bytes


class MakerCertificate(msgspec.Struct, frozen=True):
    """A certificate whose fields could be read.

    `raw` are its bytes, and `signed` the part that is signed. `subject_text` and `issuer_text` are for people.
    `spki` is the SubjectPublicKeyInfo as it is in the certificate. `usage` has the bits of KeyUsage, None without that
    extension; `purposes` has ExtendedKeyUsage, None without.
    """

    raw: bytes
    signed: bytes
    signature: bytes
    signature_kind: str
    signature_parameters: bytes
    issuer: Name
    issuer_text: str
    subject: Name
    subject_text: str
    begins: datetime
    ends: datetime
    key: PublicKey
    extensions: Mapping[str, Extension]
    ca: bool
    path_length: int | None
    usage: frozenset[int] | None
    purposes: frozenset[str] | None
    subject_key_id: bytes | None
    authority_key_id: bytes | None

    @property
    def self_issued(self) -> bool:
        return self.issuer == self.subject

    def critical_beyond(self, known: frozenset[str]) -> str | None:
        """The first critical extension that is not in `known`; None if there is none."""
        return next((kind for kind, each in self.extensions.items() if each.critical and kind not in known), None)


def exact_certificate(stored: bytes) -> bytes:
    """A certificate without the padding that makers leave after it in NV memory; `stored` if its length is unreadable.

    The length is that of the outer element (X.690, 8.1.3).
    """
    try:
        element = asn1.read_element(stored)
    except Asn1Error:
        return stored
    return element.whole if element.tag == asn1.SEQUENCE else stored


def split_certificates(stored: bytes, count_max: int) -> list[bytes]:
    """The certificates in a concatenation, at most `count_max`. Reading stops at the first byte that begins none."""
    found: list[bytes] = []
    while stored and len(found) < count_max:
        one = exact_certificate(stored)
        if one[:1] != bytes([asn1.SEQUENCE]) or (one == stored and not _is_element(stored)):
            break
        found.append(one)
        stored = stored[len(one) :]
    return found


def read_certificate(raw: bytes) -> MakerCertificate:
    """Read one certificate, which must be all of `raw`. The caller bounds its size. Raises CertificateUnreadable."""
    try:
        return _read(raw)
    except Asn1Error as error:
        raise CertificateUnreadable(str(error)) from error


def verify_signature(certificate: MakerCertificate, issuer: PublicKey) -> None:
    """Check the signature of `certificate` with its issuer's key. SHA-256 and longer, RSA-2048 and longer, NIST curves.

    Raises SignatureUnverified.
    """
    kind = certificate.signature_kind
    try:
        if isinstance(issuer, rsa.RSAPublicKey):
            if issuer.key_size < SIGNING_RSA_BITS_MIN:
                raise SignatureUnverified(f"its issuer's key has {issuer.key_size} bits only")
            if kind == _RSA_PSS:
                scheme, algorithm = _pss(certificate.signature_parameters)
                issuer.verify(certificate.signature, certificate.signed, scheme, algorithm)
                return
            if kind in _RSA_SIGNATURES:
                issuer.verify(certificate.signature, certificate.signed, padding.PKCS1v15(), _RSA_SIGNATURES[kind])
                return
        elif kind in _ECDSA_SIGNATURES:
            r, s = _sequence(asn1.read_whole(certificate.signature, asn1.SEQUENCE), 2, 2)
            encoded = encode_dss_signature(asn1.unsigned(r), asn1.unsigned(s))
            issuer.verify(encoded, certificate.signed, ec.ECDSA(_ECDSA_SIGNATURES[kind]))
            return
    except InvalidSignature as error:
        raise SignatureUnverified("its signature is not from its issuer's key") from error
    except (Asn1Error, ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, SignatureUnverified):
            raise
        raise SignatureUnverified("its signature cannot be read") from error
    raise SignatureUnverified(f"its signature is of the kind {kind}, which is not accepted for its issuer's key")


def _read(raw: bytes) -> MakerCertificate:
    signed, algorithm, signature = _sequence(asn1.read_whole(raw, asn1.SEQUENCE), 3, 3)
    fields = asn1.children(asn1.expect(signed, asn1.SEQUENCE))
    if fields and fields[0].tag == 0xA0:
        del fields[0]  # the version; a version 1 certificate cannot have the extensions that are required later
    if len(fields) < 6:
        raise Asn1Error("it has too few fields")
    serial, inner, issuer, validity, subject, spki = fields[:6]
    asn1.integer(serial)
    kind, parameters = _algorithm(algorithm)
    if _algorithm(inner)[0] != kind:
        raise Asn1Error("it names two different signature algorithms")
    begins, ends = _sequence(validity, 2, 2)
    extensions = _extensions(fields[6:])
    ca, path_length = _basic_constraints(extensions)
    issuer_name, issuer_text = _name(issuer)
    subject_name, subject_text = _name(subject)
    return MakerCertificate(
        raw=raw,
        signed=signed.whole,
        signature=asn1.bits(signature),
        signature_kind=kind,
        signature_parameters=parameters,
        issuer=issuer_name,
        issuer_text=issuer_text,
        subject=subject_name,
        subject_text=subject_text or _alternative_text(extensions),
        begins=asn1.time(begins),
        ends=asn1.time(ends),
        key=_key(spki),
        extensions=extensions,
        ca=ca,
        path_length=path_length,
        usage=_usage(extensions),
        purposes=_purposes(extensions),
        subject_key_id=_subject_key_id(extensions),
        authority_key_id=_authority_key_id(extensions),
    )


def _sequence(element: Element, least: int, most: int) -> list[Element]:
    parts = asn1.children(asn1.expect(element, asn1.SEQUENCE))
    if not least <= len(parts) <= most:
        raise Asn1Error("a SEQUENCE has a wrong count of parts")
    return parts


def _algorithm(element: Element) -> tuple[str, bytes]:
    """Object identifier and parameters of an AlgorithmIdentifier; b"" for parameters that are missing or NULL."""
    kind, *rest = _sequence(element, 1, 2)
    parameters = b"" if not rest or rest[0].tag == asn1.NULL else rest[0].whole
    return asn1.object_identifier(kind), parameters


def _name(element: Element) -> tuple[Name, str]:
    """The name for comparison, and its text (RFC 4514 without escapes, in the order of the certificate)."""
    compared: list[tuple[Attribute, ...]] = []
    shown: list[str] = []
    for part in asn1.children(asn1.expect(element, asn1.SEQUENCE)):
        attributes: list[Attribute] = []
        for each in asn1.children(asn1.expect(part, asn1.SET)):
            kind, value = _sequence(each, 2, 2)
            dotted, written = asn1.object_identifier(kind), asn1.text(value)
            if written is None:
                written = "#" + value.whole.hex()
            attributes.append(Attribute(dotted, " ".join(written.split()).casefold()))
            shown.append(f"{_LABELS.get(dotted, dotted)}={printable(written)}")
        compared.append(tuple(sorted(attributes)))
    return tuple(compared), ",".join(shown)


def printable(written: str) -> str:
    """The text with every character that cannot be printed replaced by `?`."""
    return "".join(each if each.isprintable() else "?" for each in written)


def _extensions(optional: list[Element]) -> dict[str, Extension]:
    """The extensions, by object identifier. The unique identifiers that may be before them are ignored."""
    found: dict[str, Extension] = {}
    for field in optional:
        if field.tag != 0xA3:
            continue
        for each in asn1.children(asn1.read_whole(field.content, asn1.SEQUENCE)):
            kind, *rest = _sequence(each, 2, 3)
            dotted = asn1.object_identifier(kind)
            if dotted in found:
                raise Asn1Error(f"it has the extension {dotted} twice")
            critical = len(rest) == 2 and asn1.boolean(rest[0])
            found[dotted] = Extension(critical, asn1.expect(rest[-1], asn1.OCTET_STRING).content)
    return found


def _basic_constraints(extensions: Mapping[str, Extension]) -> tuple[bool, int | None]:
    found = extensions.get(BASIC_CONSTRAINTS)
    if found is None:
        return False, None
    parts = _sequence(asn1.read_whole(found.value, asn1.SEQUENCE), 0, 2)
    ca = bool(parts) and parts[0].tag == asn1.BOOLEAN and asn1.boolean(parts.pop(0))
    if not parts:
        return ca, None
    path_length = asn1.integer(parts[0])
    if path_length < 0 or len(parts) > 1:
        raise Asn1Error("its basic constraints cannot be read")
    return ca, path_length


def _usage(extensions: Mapping[str, Extension]) -> frozenset[int] | None:
    found = extensions.get(KEY_USAGE)
    if found is None:
        return None
    flags = asn1.bits(asn1.read_whole(found.value, asn1.BIT_STRING))
    return frozenset(at for at in range(len(flags[:2]) * 8) if flags[at // 8] & (0x80 >> at % 8))


def _purposes(extensions: Mapping[str, Extension]) -> frozenset[str] | None:
    found = extensions.get(EXTENDED_KEY_USAGE)
    if found is None:
        return None
    return frozenset(
        asn1.object_identifier(each) for each in asn1.children(asn1.read_whole(found.value, asn1.SEQUENCE))
    )


def _subject_key_id(extensions: Mapping[str, Extension]) -> bytes | None:
    found = extensions.get(SUBJECT_KEY_ID)
    return None if found is None else asn1.read_whole(found.value, asn1.OCTET_STRING).content


def _authority_key_id(extensions: Mapping[str, Extension]) -> bytes | None:
    found = extensions.get(AUTHORITY_KEY_ID)
    if found is None:
        return None
    parts = asn1.children(asn1.read_whole(found.value, asn1.SEQUENCE))
    return next((each.content for each in parts if each.tag == 0x80), None)


def _alternative_text(extensions: Mapping[str, Extension]) -> str:
    """The directory name in SubjectAlternativeName. It has maker, model and version of the TPM (profile, 3.1.2)."""
    found = extensions.get(SUBJECT_ALTERNATIVE_NAME)
    if found is None:
        return ""
    try:
        for each in asn1.children(asn1.read_whole(found.value, asn1.SEQUENCE)):
            if each.tag == 0xA4:
                return _name(asn1.read_whole(each.content, asn1.SEQUENCE))[1]
    except Asn1Error:
        return ""  # the text is shown only; no decision depends on it
    return ""


def _key(spki: Element) -> PublicKey:
    algorithm, value = _sequence(spki, 2, 2)
    kind, parameters = _algorithm(algorithm)
    raw = asn1.bits(value)
    try:
        if kind in _RSA_KEYS:
            modulus, exponent = map(asn1.unsigned, _sequence(asn1.read_whole(raw, asn1.SEQUENCE), 2, 2))
            if not RSA_BITS_MIN <= modulus.bit_length() <= RSA_BITS_MAX:
                raise Asn1Error(f"its RSA key does not have {RSA_BITS_MIN} to {RSA_BITS_MAX} bits")
            if exponent.bit_length() > RSA_EXPONENT_BITS_MAX:
                raise Asn1Error("its RSA key has a long exponent")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if kind == _EC_KEY and parameters:
            curve = _CURVES.get(asn1.object_identifier(asn1.read_whole(parameters, asn1.OBJECT_IDENTIFIER)))
            if curve is not None:
                return ec.EllipticCurvePublicKey.from_encoded_point(curve, raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, Asn1Error):
            raise
        raise Asn1Error("its key cannot be used") from error
    raise Asn1Error("its key is neither RSA nor on a curve of NIST")


def _pss(parameters: bytes) -> tuple[padding.PSS, hashes.HashAlgorithm]:
    """Padding and hash of RSASSA-PSS-params (RFC 4055, 3.1). The hash of the mask must be the same."""
    fields = {each.tag: each.content for each in asn1.children(asn1.read_whole(parameters, asn1.SEQUENCE))}
    algorithm = _SHA.get(_algorithm(asn1.read_whole(fields.get(0xA0, b""), asn1.SEQUENCE))[0])
    mask, mask_parameters = _algorithm(asn1.read_whole(fields.get(0xA1, b""), asn1.SEQUENCE))
    masked = _SHA.get(_algorithm(asn1.read_whole(mask_parameters, asn1.SEQUENCE))[0])
    if algorithm is None or masked is None or masked.name != algorithm.name or mask != "1.2.840.113549.1.1.8":
        raise SignatureUnverified("its RSASSA-PSS signature has other hashes than SHA-256, SHA-384 or SHA-512")
    salt = asn1.unsigned(asn1.read_whole(fields[0xA2], asn1.INTEGER)) if 0xA2 in fields else 20
    if salt > 64:
        raise SignatureUnverified("its RSASSA-PSS signature has a salt of more than 64 bytes")
    return padding.PSS(padding.MGF1(masked), salt), algorithm


def _is_element(raw: bytes) -> bool:
    try:
        asn1.read_element(raw)
    except Asn1Error:
        return False
    return True
