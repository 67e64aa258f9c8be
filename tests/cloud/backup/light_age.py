"""An age file with a cheap passphrase, written by hand from the format's specification (C2SP, age.md).

The library spends a second on each passphrase. This writer uses the lowest cost, and shows that the library reads what
the specification says.
"""

import hmac
from base64 import b64encode

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

FILE_KEY, SALT, NONCE = b"k" * 16, b"s" * 16, b"n" * 16


def _base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def _derived(salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(FILE_KEY)


def light_wrap(identity: str, passphrase: str) -> bytes:
    """Encrypt an identity with a passphrase as `cloud.backup.age.wrap` does, at the lowest cost."""
    scrypt = Scrypt(salt=b"age-encryption.org/v1/scrypt" + SALT, length=32, n=2, r=8, p=1)
    wrapped = ChaCha20Poly1305(scrypt.derive(passphrase.encode())).encrypt(bytes(12), FILE_KEY, None)
    header = b"age-encryption.org/v1\n-> scrypt " + _base64(SALT) + b" 1\n" + _base64(wrapped) + b"\n---"
    mac = hmac.digest(_derived(b"", b"header"), header, "sha256")
    only_chunk = bytes(11) + b"\1"
    payload = ChaCha20Poly1305(_derived(NONCE, b"payload")).encrypt(only_chunk, identity.encode(), None)
    return header + b" " + _base64(mac) + b"\n" + NONCE + payload
