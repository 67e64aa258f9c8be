"""Pure functions: read the elements of BER within bounds (X.690, 8.1).

The certificates of TPM makers break rules of DER that do not change what they say. A strict parser refuses them. This
reader accepts any BER with definite lengths and tags of one byte. The caller names each element that it expects, so the
depth of a read is that of the caller's own code. Rule: an element keeps its bytes as they were, because signatures
and hashes are over these bytes.
"""

from datetime import UTC, datetime, timedelta

import msgspec

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

CHILDREN_MAX = 128
"""Most elements in one element. A certificate has about twelve extensions, and a name has about six parts."""
ARCS_BYTES_MAX = 64
"""Longest object identifier. The longest ones of makers have 11 bytes."""
_HIGH_TAG = 0x1F
_LENGTH_BYTES_MAX = 4

_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1A: "ascii", 0x1E: "utf-16-be"}
"""UTF8String, PrintableString, TeletexString, IA5String, VisibleString, BMPString."""


class Asn1Error(ValueError):
    """The bytes are not the expected element. The text says where."""


class Element(msgspec.Struct, frozen=True):
    """One element. `tag` is its identifier octet, `content` its contents, `whole` all its bytes."""

    tag: int
    content: bytes
    whole: bytes


def read_element(raw: bytes, offset: int = 0) -> Element:
    """The element that begins at `offset`. Bytes after the element are allowed. Raises Asn1Error."""
    if len(raw) < offset + 2:
        raise Asn1Error("it ends early")
    tag, first = raw[offset], raw[offset + 1]
    if tag & _HIGH_TAG == _HIGH_TAG:
        raise Asn1Error("it has a tag of several bytes")
    begin = offset + 2
    size = first
    if first & 0x80:
        count = first & 0x7F
        if not 0 < count <= _LENGTH_BYTES_MAX:
            raise Asn1Error("an element has no definite length, or a length of more than 4 bytes")
        size = int.from_bytes(raw[begin : begin + count], "big")
        begin += count
    end = begin + size
    if end > len(raw):
        raise Asn1Error("an element is longer than the bytes that are left")
    return Element(tag, raw[begin:end], raw[offset:end])


def read_whole(raw: bytes, tag: int) -> Element:
    """The element that is all of `raw`, with this tag. Raises Asn1Error."""
    element = expect(read_element(raw), tag)
    if len(element.whole) != len(raw):
        raise Asn1Error("bytes follow its end")
    return element


def children(element: Element) -> list[Element]:
    """The elements inside a constructed element. Raises Asn1Error."""
    found: list[Element] = []
    offset = 0
    while offset < len(element.content):
        if len(found) == CHILDREN_MAX:
            raise Asn1Error(f"an element has more than {CHILDREN_MAX} parts")
        child = read_element(element.content, offset)
        found.append(child)
        offset += len(child.whole)
    return found


def expect(element: Element, *tags: int) -> Element:
    """The element, if it has one of these tags. Raises Asn1Error."""
    if element.tag not in tags:
        raise Asn1Error(f"an element has the tag {element.tag:#04x} instead of {tags[0]:#04x}")
    return element


def boolean(element: Element) -> bool:
    """BOOLEAN. Every value except 0 is true (X.690, 8.2). Raises Asn1Error."""
    if len(expect(element, BOOLEAN).content) != 1:
        raise Asn1Error("a BOOLEAN does not have one byte")
    return element.content != b"\0"


def integer(element: Element) -> int:
    """INTEGER, also with more bytes than needed. Raises Asn1Error."""
    if not expect(element, INTEGER).content:
        raise Asn1Error("an INTEGER is empty")
    return int.from_bytes(element.content, "big", signed=True)


def unsigned(element: Element) -> int:
    """As `integer`, for a value that is never negative: a leading bit that is set belongs to the value."""
    if not expect(element, INTEGER).content:
        raise Asn1Error("an INTEGER is empty")
    return int.from_bytes(element.content, "big")


def bits(element: Element) -> bytes:
    """The bytes of a BIT STRING. Unused bits are set to 0. Raises Asn1Error."""
    content = expect(element, BIT_STRING).content
    if not content or content[0] > 7 or (len(content) == 1 and content[0]):
        raise Asn1Error("a BIT STRING has a wrong count of unused bits")
    if len(content) == 1:
        return b""
    return content[1:-1] + bytes([content[-1] & (0xFF << content[0]) & 0xFF])


def object_identifier(element: Element) -> str:
    """An OBJECT IDENTIFIER with dots. Raises Asn1Error."""
    content = expect(element, OBJECT_IDENTIFIER).content
    if not 0 < len(content) <= ARCS_BYTES_MAX or content[-1] & 0x80:
        raise Asn1Error("an OBJECT IDENTIFIER is empty, too long or incomplete")
    arcs: list[int] = []
    value = 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - first * 40, *arcs[1:])))


def text(element: Element) -> str | None:
    """The text of a string element; None if the element is no string. Characters that cannot be read become U+FFFD."""
    encoding = _STRINGS.get(element.tag)
    return None if encoding is None else element.content.decode(encoding, "replace")


def time(element: Element) -> datetime:
    """UTCTime or GeneralizedTime as aware UTC. Seconds and zone may be missing; a fraction is dropped. Raises Asn1Error.

    RFC 5280, 4.1.2.5, allows GeneralizedTime from 2050 only. Some makers use it for earlier dates.
    """
    try:
        written = expect(element, UTC_TIME, GENERALIZED_TIME).content.decode("ascii")
        shift = timedelta()
        if written.endswith("Z"):
            written = written[:-1]
        elif written[-5:-4] in {"+", "-"}:
            sign = -1 if written[-5] == "-" else 1
            shift = sign * timedelta(hours=_digits(written[-4:-2]), minutes=_digits(written[-2:]))
            written = written[:-5]
        if element.tag == UTC_TIME:
            year = _digits(written[:2])
            written = f"{1900 + year if year >= 50 else 2000 + year}{written[2:]}"
        written = written.partition(".")[0]
        if len(written) not in {12, 14}:
            raise Asn1Error("a date has the wrong length")
        parts = [_digits(written[:4]), *(_digits(written[at : at + 2]) for at in range(4, len(written), 2))]
        if len(parts) == 6:
            parts[5] = min(parts[5], 59)  # a leap second
        return datetime(*parts, tzinfo=UTC) - shift  # type: ignore[arg-type, misc]  # five or six numbers
    except (UnicodeDecodeError, ValueError, OverflowError) as error:
        raise Asn1Error("a date cannot be read") from error


def _digits(written: str) -> int:
    if not (written.isascii() and written.isdecimal()):
        raise Asn1Error("a date has a character that is not a digit")
    return int(written)
