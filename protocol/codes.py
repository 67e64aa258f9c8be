"""Pure functions: secrets that people handle (activation codes, operators' tokens, enrolment secrets).

A secret's text is a prefix, `_`, 32 random letters (160 bits) and 6 letters of CRC-32, in lower-case Crockford base 32.
The checksum finds a mistyped secret before a database is asked. The checksum is not secret and proves nothing.
"""

import hashlib
import re
import zlib
from typing import Literal

SecretPrefix = Literal["cac", "cot", "ces"]
"""`cac`: Cascade activation code. `cot`: Cascade operator token. `ces`: Cascade enrolment secret of a service."""

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
    """Make a secret from 20 random bytes. Raises ValueError for another length."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a secret takes {ENTROPY_BYTES} bytes of entropy")
    body = _letters(int.from_bytes(entropy, "big"), 32)
    return f"{prefix}_{body}{_checksum(prefix, body)}"


def parse_secret(prefix: SecretPrefix, text: str) -> str:
    """The secret in its canonical form: lower case, without surrounding white space.

    Raises SecretFormatError if prefix, length, letters or checksum are wrong.
    """
    text = text.strip().lower()
    body = text.removeprefix(f"{prefix}_")
    if body == text or not _BODY.fullmatch(body):
        raise SecretFormatError(f"not of the form {prefix}_...")
    if _checksum(prefix, body[:32]) != body[32:]:
        raise SecretFormatError("the checksum does not match: it is mistyped or cut short")
    return text


def secret_hash(secret: str) -> str:
    """SHA-256 in hex, as a service stores it. A plain hash is enough, because the secret has 160 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()
