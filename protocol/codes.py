"""Secrets that people carry: activation codes, operators' tokens and enrolment secrets, with prefix and checksum.

Text: prefix, `_`, 32 letters of random (160 bits), 6 letters of CRC-32; Crockford base 32, lower case. The checksum
tells a mistyped code from a wrong one before any database is asked; it is no secret and proves nothing.
"""

import hashlib
import re
import zlib
from typing import Literal

SecretPrefix = Literal["cac", "cot", "ces"]
"""`cac`: Cascade activation code; `cot`: Cascade operator token; `ces`: Cascade enrolment secret (of a service)."""

ENTROPY_BYTES = 20
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_BODY = re.compile(r"[0-9a-hjkmnp-tv-z]{38}")


class SecretFormatError(ValueError):
    """The text has the wrong prefix, length, letters or checksum."""


def _letters(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(5 * (count - 1), -1, -5))


def _checksum(prefix: str, body: str) -> str:
    return _letters(zlib.crc32(f"{prefix}_{body}".encode()), 6)[-6:]


def make_secret(prefix: SecretPrefix, entropy: bytes) -> str:
    """A new secret from 20 random bytes."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a secret takes {ENTROPY_BYTES} bytes of entropy")
    body = _letters(int.from_bytes(entropy, "big"), 32)
    return f"{prefix}_{body}{_checksum(prefix, body)}"


def parse_secret(prefix: SecretPrefix, text: str) -> str:
    """The secret itself, in its one spelling, when prefix and checksum fit. Raises SecretFormatError."""
    text = text.strip().lower()
    body = text.removeprefix(f"{prefix}_")
    if body == text or not _BODY.fullmatch(body):
        raise SecretFormatError(f"not of the form {prefix}_...")
    if _checksum(prefix, body[:32]) != body[32:]:
        raise SecretFormatError("the checksum does not fit: mistyped or cut short")
    return text


def secret_hash(secret: str) -> str:
    """SHA-256 in hex, as stored. A plain hash is enough: the secret has 160 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()
