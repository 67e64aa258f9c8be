"""Pure functions: secrets that people handle (activation codes, operators' tokens, enrolment secrets, recovery codes).

A secret's text is a prefix, `_`, 32 random letters (160 bits) and 6 letters of CRC-32, in lower-case Crockford base 32.
The checksum finds a mistyped secret before a database is asked. The checksum is not secret and proves nothing.

A recovery code is read out on the phone and typed by hand. It has 20 random letters (100 bits) and 4 letters of check,
in upper-case Crockford base 32, as six groups of four with hyphens. The check is a Reed-Solomon code over GF(32): the 24
letters are a polynomial that is zero at four powers of the field's generator. Two such polynomials differ in five
letters at least. So the check finds every error of up to four letters, and every swap of two letters.
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

RECOVERY_ENTROPY_BYTES = 13
"""104 random bits, of which a recovery code has the first 100."""
_RECOVERY_LETTERS = 20
_CHECK_LETTERS = 4
_GROUP = 4
_IGNORED = re.compile("[\\s\u2010-\u2015-]")
"""White space, hyphens, and the dashes that word processors make of them."""
_LOOKALIKES = str.maketrans({"o": "0", "i": "1", "l": "1"})
_FIELD_POLYNOMIAL = 0b100101
"""x^5 + x^2 + 1. It is primitive: the powers of x are the 31 elements of GF(32) other than zero."""


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


def _powers() -> tuple[int, ...]:
    """The powers 0 to 30 of the field's generator."""
    powers = [1]
    while len(powers) < 31:
        next_power = powers[-1] << 1
        powers.append(next_power ^ _FIELD_POLYNOMIAL if next_power & 32 else next_power)
    return tuple(powers)


_POWERS = _powers()
_LOGARITHMS = {power: exponent for exponent, power in enumerate(_POWERS)}


def _product(one: int, other: int) -> int:
    """The product of two elements of GF(32)."""
    if not one or not other:
        return 0
    return _POWERS[(_LOGARITHMS[one] + _LOGARITHMS[other]) % 31]


def _check_polynomial() -> tuple[int, ...]:
    """The coefficients after the first of the polynomial with the zeros x^1 to x^4, the highest first."""
    coefficients = [1]
    for zero in _POWERS[1 : _CHECK_LETTERS + 1]:
        shifted, scaled = [*coefficients, 0], [0, *(_product(zero, each) for each in coefficients)]
        coefficients = [one ^ other for one, other in zip(shifted, scaled, strict=True)]
    return tuple(coefficients[1:])


_CHECK_POLYNOMIAL = _check_polynomial()


def _recovery_check(letters: str) -> str:
    """The letters of check: the remainder of the polynomial division."""
    rest = [0] * _CHECK_LETTERS
    for letter in letters:
        factor = _ALPHABET.index(letter) ^ rest[0]
        rest = [one ^ _product(factor, other) for one, other in zip([*rest[1:], 0], _CHECK_POLYNOMIAL, strict=True)]
    return "".join(_ALPHABET[each] for each in rest)


def _grouped(letters: str) -> str:
    return "-".join(letters[at : at + _GROUP] for at in range(0, len(letters), _GROUP)).upper()


def make_recovery_code(entropy: bytes) -> str:
    """Make a recovery code from 13 random bytes. Raises ValueError for another length."""
    if len(entropy) != RECOVERY_ENTROPY_BYTES:
        raise ValueError(f"a recovery code takes {RECOVERY_ENTROPY_BYTES} bytes of entropy")
    letters = _letters(int.from_bytes(entropy, "big") >> 4, _RECOVERY_LETTERS)
    return _grouped(letters + _recovery_check(letters))


def parse_recovery_code(text: str) -> str:
    """The recovery code in its canonical form: upper case, six groups of four letters with hyphens.

    Lower case, spaces and hyphens anywhere, `o` for `0`, `i` and `l` for `1` are accepted. Raises SecretFormatError if
    length, letters or check are wrong.
    """
    letters = _IGNORED.sub("", text).lower().translate(_LOOKALIKES)
    if len(letters) != _RECOVERY_LETTERS + _CHECK_LETTERS:
        raise SecretFormatError(f"a recovery code has {_RECOVERY_LETTERS + _CHECK_LETTERS} letters and digits")
    if not set(letters) <= set(_ALPHABET):
        raise SecretFormatError("a recovery code has only digits and letters without u")
    if _recovery_check(letters[:_RECOVERY_LETTERS]) != letters[_RECOVERY_LETTERS:]:
        raise SecretFormatError("the check of the recovery code does not match: a letter is mistyped")
    return _grouped(letters)
