"""Pure functions: write the DER elements (X.690) that no library writes with exactly the bytes that we need.

The module reads no DER. Lengths are definite and use the fewest bytes.
"""

from functools import lru_cache

from cryptography.x509 import ObjectIdentifier

NULL = b"\x05\x00"


def tlv(tag: int, content: bytes) -> bytes:
    """Return one element with a tag of one byte (X.690 section 8.1)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*elements: bytes) -> bytes:
    """Return a SEQUENCE (X.690 section 8.9). `elements` are DER already."""
    return tlv(0x30, b"".join(elements))


def integer(value: int) -> bytes:
    """Return an INTEGER (X.690 section 8.3). Raises ValueError for a negative value."""
    if value < 0:
        raise ValueError(f"cannot write {value} as an INTEGER: it is below zero")
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(value: bytes) -> bytes:
    """Return an OCTET STRING (X.690 section 8.7)."""
    return tlv(0x04, value)


def bit_string(value: bytes) -> bytes:
    """Return a BIT STRING of whole bytes (X.690 section 8.6)."""
    return tlv(0x03, b"\x00" + value)


@lru_cache(256)
def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER (X.690 section 8.19). Raises ValueError if `dotted` is not an object identifier."""
    ObjectIdentifier(dotted)  # Raises ValueError: `dotted` is too short, or its first two numbers are too large.
    first, second, *rest = (int(number) for number in dotted.split("."))
    return tlv(0x06, b"".join(_base128(number) for number in (first * 40 + second, *rest)))


def _base128(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
