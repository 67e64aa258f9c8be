"""Pure functions: search bytes for the private keys of known public keys, in every usual encoding.

The search reads the bytes themselves, and every run of base64, base64url or hex in them, decoded. It tries PEM (PKCS#8,
traditional, OpenSSH), DER from every offset, PKCS#12, and a raw scalar at every offset, big and little endian. It skips
scalars of printable characters only, because a random scalar is printable once in 10^13.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

SCALAR_BYTES = 32
_PRINTABLE = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D}
_RUNS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], bytes]], ...] = (
    (re.compile(rb"[A-Za-z0-9+/=\s]{40,}"), lambda run: base64.b64decode(run + b"=="[: -len(run.rstrip(b"=")) % 4])),
    (re.compile(rb"[A-Za-z0-9_-]{40,}"), lambda run: base64.urlsafe_b64decode(run + b"=" * (-len(run) % 4))),
    (re.compile(rb"[0-9a-fA-F]{60,}"), lambda run: bytes.fromhex(run.decode())),
)  # fmt: skip
_FAULTS = (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error)


def public_bytes(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def keys_in(data: bytes) -> set[bytes]:
    """The public keys (SubjectPublicKeyInfo in DER) of all unencrypted private keys in the bytes."""
    return {public_bytes(key) for key in _keys(data)}


class Search:
    """Search for the private keys of `wanted` (SubjectPublicKeyInfo in DER). It tries each scalar value once."""

    def __init__(self, wanted: Iterable[bytes]) -> None:
        self.wanted = frozenset(wanted)
        self._tried: set[int] = set()
        self._points = {
            key.public_numbers().x
            for key in map(serialization.load_der_public_key, self.wanted)
            if isinstance(key, ec.EllipticCurvePublicKey)
        }
        self._found: set[int] = set()

    def finds(self, data: bytes) -> bool:
        return any(self._is_key(form) or self._holds_scalar(form) for form in _forms(data))

    def _is_key(self, data: bytes) -> bool:
        return not self.wanted.isdisjoint(keys_in(data))

    def _holds_scalar(self, data: bytes) -> bool:
        for at in range(len(data) - SCALAR_BYTES + 1):
            window = data[at : at + SCALAR_BYTES]
            if _PRINTABLE.issuperset(window):
                continue
            if any(self._is_scalar(int.from_bytes(window, order)) for order in ("big", "little")):
                return True
        return False

    def _is_scalar(self, value: int) -> bool:
        if value in self._tried:
            return value in self._found
        self._tried.add(value)
        try:
            x = ec.derive_private_key(value, ec.SECP256R1()).public_key().public_numbers().x
        except ValueError:  # zero, or not below the order of the group
            return False
        if x in self._points:
            self._found.add(value)
        return x in self._points


def _forms(data: bytes) -> Iterator[bytes]:
    yield data
    for pattern, decode in _RUNS:
        for run in pattern.findall(data):
            compact = b"".join(run.split())
            try:
                decoded = decode(compact)
            except _FAULTS:
                continue
            yield decoded


def _keys(data: bytes) -> Iterator[Any]:
    """The public key of every private key that the loaders of `cryptography` read from any place in the bytes."""
    load: Callable[..., Any]
    for block in re.findall(rb"-----BEGIN [A-Z0-9 ]+-----.*?-----END [A-Z0-9 ]+-----", data, re.DOTALL):
        load = serialization.load_ssh_private_key if b"OPENSSH" in block else serialization.load_pem_private_key
        yield from _loaded(load, block)
    yield from _loaded(_from_pkcs12, data)
    at = data.find(b"\x30")
    while at >= 0:
        end = at + _der_bytes(data[at : at + 4])
        if at < end <= len(data):
            yield from _loaded(serialization.load_der_private_key, data[at:end])
        at = data.find(b"\x30", at + 1)


def _from_pkcs12(data: bytes, password: bytes | None) -> object:
    return pkcs12.load_key_and_certificates(data, password)[0]


def _der_bytes(head: bytes) -> int:
    """The length of a DER value, including its head, from its first four bytes (X.690 8.1.3).

    Returns 0 for fewer than four bytes, and for lengths of more than two bytes, because keys are shorter.
    """
    if len(head) < 4:
        return 0
    if head[1] < 0x80:
        return 2 + head[1]
    return {0x81: 3 + head[2], 0x82: 4 + int.from_bytes(head[2:], "big")}.get(head[1], 0)


def _loaded(load: Callable[..., Any], data: bytes) -> Iterator[Any]:
    try:
        key = load(data, None)
    except _FAULTS:
        return
    if key is not None and hasattr(key, "public_key"):
        yield key.public_key()
