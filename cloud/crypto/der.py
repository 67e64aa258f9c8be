"""Pure: writer of the few DER elements (X.690) that no library writes with exactly these bytes.

It reads no DER. Rule: definite lengths, in the fewest bytes.
"""

from functools import lru_cache

from cryptography.x509 import ObjectIdentifier

NULL = b"\x05\x00"


def tlv(tag: int, content: bytes) -> bytes:
    """One element with a tag of one byte (X.690 section 8.1)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*elements: bytes) -> bytes:
    """A SEQUENCE of elements that are DER already."""
    return tlv(0x30, b"".join(elements))


def integer(value: int) -> bytes:
    """An INTEGER, zero or positive (X.690 section 8.3)."""
    if value < 0:
        raise ValueError("no integer below zero is written here")
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(0x04, value)


def bit_string(value: bytes) -> bytes:
    """A BIT STRING of whole bytes."""
    return tlv(0x03, b"\x00" + value)


@lru_cache(256)
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER (X.690 section 8.19). Raises ValueError for what is none."""
    ObjectIdentifier(dotted)  # raises: too short, or the first two numbers out of bounds
    first, second, *rest = (int(number) for number in dotted.split("."))
    return tlv(0x06, b"".join(_base128(number) for number in (first * 40 + second, *rest)))


def _base128(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
