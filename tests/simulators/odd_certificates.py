"""Real part: certificates with the faults of TPM makers, signed by the issuer's key over the faulty bytes.

A sound certificate is taken apart, one part is written in another way, and the whole is signed again. Each fault keeps
what the certificate says.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from protocol import asn1

_VERSION, _SERIAL, _ALGORITHM, _ISSUER, _VALIDITY, _SUBJECT, _SPKI, _EXTENSIONS = range(8)
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element in DER."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    return tlv(asn1.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


@dataclass(frozen=True)
class Draft:
    """The parts of a certificate before it is signed: the fields of TBSCertificate, and both signature algorithms."""

    fields: tuple[bytes, ...]
    algorithm: bytes = tlv(asn1.SEQUENCE, ECDSA_SHA256)
    long_signature: bool = False

    @classmethod
    def of(cls, der: bytes) -> "Draft":
        """The parts of a version 3 certificate with extensions."""
        signed = asn1.children(asn1.read_whole(der, asn1.SEQUENCE))[0]
        return cls(tuple(each.whole for each in asn1.children(signed)))

    def with_field(self, at: int, change: Callable[[bytes], bytes]) -> "Draft":
        return replace(self, fields=(*self.fields[:at], change(self.fields[at]), *self.fields[at + 1 :]))

    def with_extension(self, kind: bytes, change: Callable[[list[bytes]], list[bytes]]) -> "Draft":
        """Change the parts of the extension with this object identifier (DER)."""

        def of_all(field: bytes) -> bytes:
            inner = asn1.read_whole(asn1.read_whole(field, 0xA3).content, asn1.SEQUENCE)
            each = [[part.whole for part in asn1.children(one)] for one in asn1.children(inner)]
            changed = [tlv(asn1.SEQUENCE, *(change(parts) if parts[0] == kind else parts)) for parts in each]
            return tlv(0xA3, tlv(asn1.SEQUENCE, *changed))

        return self.with_field(_EXTENSIONS, of_all)

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        signed = tlv(asn1.SEQUENCE, *self.fields)
        signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
        if self.long_signature:
            r, s = asn1.children(asn1.read_whole(signature, asn1.SEQUENCE))
            signature = tlv(asn1.SEQUENCE, tlv(asn1.INTEGER, b"\0\0", r.content), s.whole)
        return tlv(asn1.SEQUENCE, signed, self.algorithm, tlv(asn1.BIT_STRING, b"\0", signature))


Fault = Callable[[Draft], Draft]
_BASIC_CONSTRAINTS = bytes.fromhex("0603551d13")
_KEY_USAGE = bytes.fromhex("0603551d0f")
_EKU = bytes.fromhex("0603551d25")
COMMON_NAME, ORGANIZATION = bytes.fromhex("0603550403"), bytes.fromhex("060355040a")


def common_name(name: str, tag: int) -> bytes:
    """A name with one CommonName, written as this string type."""
    written = name.encode("utf-16-be" if tag == 0x1E else "latin-1" if tag == 0x14 else "utf-8")
    return tlv(asn1.SEQUENCE, tlv(asn1.SET, tlv(asn1.SEQUENCE, COMMON_NAME, tlv(tag, written))))


def multi_valued(organization: str, name: str, *, ordered: bool) -> bytes:
    """A name with one part of two attributes, in the order of DER or in the other one."""
    parts = sorted(
        (
            tlv(asn1.SEQUENCE, ORGANIZATION, tlv(0x0C, organization.encode())),
            tlv(asn1.SEQUENCE, COMMON_NAME, tlv(0x0C, name.encode())),
        ),
        reverse=not ordered,
    )
    return tlv(asn1.SEQUENCE, tlv(asn1.SET, *parts))


def _generalized(field: bytes) -> bytes:
    times = [asn1.time(each) for each in asn1.children(asn1.read_whole(field, asn1.SEQUENCE))]
    written = [f"{each.year:04}{each:%m%d%H%M%S}Z".encode() for each in times]
    return tlv(asn1.SEQUENCE, *(tlv(asn1.GENERALIZED_TIME, each) for each in written))


def _without_seconds(field: bytes) -> bytes:
    begins, ends = asn1.children(asn1.read_whole(field, asn1.SEQUENCE))
    short = f"{asn1.time(begins):%y%m%d%H%M}+0000".encode()
    return tlv(asn1.SEQUENCE, tlv(asn1.UTC_TIME, short), ends.whole)


def _long_length(field: bytes) -> bytes:
    element = asn1.read_element(field)
    return bytes([element.tag, 0x84]) + len(element.content).to_bytes(4, "big") + element.content


def _odd_usage(parts: list[bytes]) -> list[bytes]:
    flags = asn1.bits(asn1.read_whole(asn1.read_element(parts[-1]).content, asn1.BIT_STRING))
    return [*parts[:-1], tlv(asn1.OCTET_STRING, tlv(asn1.BIT_STRING, b"\0", flags, b"\0"))]


def _one_as_true(parts: list[bytes]) -> list[bytes]:
    return [parts[0], tlv(asn1.BOOLEAN, b"\x01"), parts[-1]]


FAULTS: dict[str, Fault] = {
    "none": lambda d: d,
    "DEFAULT encoded in an extension": lambda d: d.with_extension(
        _EKU, lambda parts: [parts[0], tlv(asn1.BOOLEAN, b"\0"), parts[-1]]
    ),
    "NULL parameters of ECDSA": lambda d: replace(d, algorithm=tlv(asn1.SEQUENCE, ECDSA_SHA256, b"\x05\0")).with_field(
        _ALGORITHM, lambda _: tlv(asn1.SEQUENCE, ECDSA_SHA256, b"\x05\0")
    ),
    "NULL parameters outside only": lambda d: replace(d, algorithm=tlv(asn1.SEQUENCE, ECDSA_SHA256, b"\x05\0")),
    "GeneralizedTime before 2050": lambda d: d.with_field(_VALIDITY, _generalized),
    "UTCTime without seconds": lambda d: d.with_field(_VALIDITY, _without_seconds),
    "serial not minimal": lambda d: d.with_field(_SERIAL, lambda _: tlv(asn1.INTEGER, b"\0\0\0\x01")),
    "serial zero": lambda d: d.with_field(_SERIAL, lambda _: integer(0)),
    "serial negative": lambda d: d.with_field(_SERIAL, lambda _: integer(-5)),
    "serial of 30 bytes": lambda d: d.with_field(_SERIAL, lambda _: tlv(asn1.INTEGER, b"\x55" * 30)),
    "length not minimal": lambda d: d.with_field(_SUBJECT, _long_length).with_field(_SPKI, _long_length),
    "TRUE as 1": lambda d: d.with_extension(_BASIC_CONSTRAINTS, _one_as_true),
    "KeyUsage with zero bits behind": lambda d: d.with_extension(_KEY_USAGE, _odd_usage),
    "ECDSA value not minimal": lambda d: replace(d, long_signature=True),
}
"""What makers do to an EK certificate."""


def faulty(der: bytes, key: ec.EllipticCurvePrivateKey, fault: Fault) -> bytes:
    """The certificate with a fault, signed again by `key`."""
    return fault(Draft.of(der)).sign(key)


def renamed(der: bytes, key: ec.EllipticCurvePrivateKey, *, issuer: bytes = b"", subject: bytes = b"") -> bytes:
    """The certificate with another issuer or subject (DER), signed again by `key`."""
    draft = Draft.of(der)
    if issuer:
        draft = draft.with_field(_ISSUER, lambda _: issuer)
    if subject:
        draft = draft.with_field(_SUBJECT, lambda _: subject)
    return draft.sign(key)
