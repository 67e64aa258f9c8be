"""Pure functions: base64url without padding, strict JSON, and SHA-256.

Rule for base64url: each value has exactly one accepted text, so a changed character is a changed value or an error.
JSON has no such rule here; `protocol.signed.envelope` and `node.disk.files` compare the encoded value with the input.
"""

import base64
import binascii
import hashlib
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class EncodingError(ValueError):
    """The text is not the canonical encoding of any value."""


def b64url_encode(data: bytes) -> str:
    """base64url (RFC 4648 section 5) without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Inverse of `b64url_encode`.

    Raises EncodingError for padding, white space, other letters, and trailing bits that are not zero.
    """
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise EncodingError("not base64url") from error
    if b64url_encode(data) != text:
        raise EncodingError("not canonical base64url")
    return data


def json_encode(value: Any) -> bytes:
    """Compact JSON. The fields of a Struct are in the order of their declaration."""
    return msgspec.json.encode(value)


def json_decode(data: bytes, kind: type[T]) -> T:
    """Decode JSON into `kind`, without coercion of types. Raises msgspec.ValidationError or msgspec.DecodeError.

    The library raises other errors for two faults of the input (keys that are not UTF-8, nesting that is too deep).
    This function turns them into DecodeError.
    """
    try:
        return msgspec.json.decode(data, type=kind, strict=True)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("not UTF-8") from error
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hex, 64 characters."""
    return hashlib.sha256(data).hexdigest()
