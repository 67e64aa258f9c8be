"""Text encodings with exactly one spelling a value: base64url without padding, and strict JSON.

Rule: whatever decodes here re-encodes to the same text, so that a changed character is a changed value.
"""

import base64
import binascii
import hashlib
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class EncodingError(ValueError):
    """The text is not the canonical spelling of any value."""


def b64url_encode(data: bytes) -> str:
    """RFC 4648 section 5, without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Inverse of `b64url_encode`; refuses padding, white space, foreign letters and loose trailing bits.

    Raises EncodingError.
    """
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise EncodingError("not base64url") from error
    if b64url_encode(data) != text:
        raise EncodingError("not canonical base64url")
    return data


def json_encode(value: Any) -> bytes:
    """Compact JSON; the fields of a Struct stand in the order of their declaration."""
    return msgspec.json.encode(value)


def json_decode(data: bytes, kind: type[T]) -> T:
    """Strict decoding into `kind`: types are not coerced. Raises msgspec.ValidationError or msgspec.DecodeError.

    The library lets two faults of the input out under other names (keys that are not UTF-8, nesting too deep).
    """
    try:
        return msgspec.json.decode(data, type=kind, strict=True)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("not UTF-8") from error
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
