"""Pure functions: keys of NATS. A key is an Ed25519 key in a text that says what the key is for.

The text is base32 (RFC 4648 section 6) without padding: one byte for the kind (two bytes before a seed), 32 bytes of
key, and a CRC-16 (XMODEM). The source is https://github.com/nats-io/nkeys.
"""

import binascii
import re
from base64 import b32decode, b32encode
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Kind = Literal["operator", "account", "user"]

_PREFIXES: dict[Kind, int] = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_SEED = 18 << 3
_KEY_BYTES = 32
_PUBLIC = re.compile(r"[OAU][A-Z2-7]{55}")
_SEED_TEXT = re.compile(r"S[OAU][A-Z2-7]{56}")


class NkeyError(ValueError):
    """A text is no key of NATS of the expected kind. The message never has the text."""


def _text(content: bytes) -> str:
    return b32encode(content + binascii.crc_hqx(content, 0).to_bytes(2, "little")).decode().rstrip("=")


def _content(text: str) -> bytes:
    """Return the bytes before the checksum. Raises NkeyError."""
    whole = b32decode(text + "=" * (-len(text) % 8))
    content = whole[:-2]
    if _text(content) != text:
        raise NkeyError("the checksum of the key is wrong")
    return content


def public_text(key: Ed25519PrivateKey, kind: Kind) -> str:
    """Return the text of the public key of a private key."""
    return public_text_of(key.public_key(), kind)


def public_text_of(key: Ed25519PublicKey, kind: Kind) -> str:
    """Return the text of a public key."""
    return _text(bytes([_PREFIXES[kind]]) + key.public_bytes_raw())


def seed_text(key: Ed25519PrivateKey, kind: Kind) -> str:
    """Return the seed: the text of the private key. It is a secret."""
    prefix = _PREFIXES[kind]
    return _text(bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + key.private_bytes_raw())


def read_public(text: str, kind: Kind) -> Ed25519PublicKey:
    """Return the public key of a text. Raises NkeyError."""
    if not _PUBLIC.fullmatch(text):
        raise NkeyError(f"the text is no public key of NATS (56 letters and digits): expected the key of a {kind}")
    content = _content(text)
    if content[0] != _PREFIXES[kind]:
        raise NkeyError(f"the key is not the key of a {kind}")
    return Ed25519PublicKey.from_public_bytes(content[1:])


def read_seed(text: str, kind: Kind) -> Ed25519PrivateKey:
    """Return the private key of a seed. Raises NkeyError."""
    if not _SEED_TEXT.fullmatch(text):
        raise NkeyError(f"the text is no seed of NATS (58 letters and digits): expected the seed of a {kind}")
    content = _content(text)
    prefix = _PREFIXES[kind]
    if content[:2] != bytes([_SEED | prefix >> 5, (prefix & 31) << 3]):
        raise NkeyError(f"the seed is not the seed of a {kind}")
    return Ed25519PrivateKey.from_private_bytes(content[2:])
