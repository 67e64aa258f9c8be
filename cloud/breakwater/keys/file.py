"""Adapter: CA keys in encrypted files, for small installations and for the root's ceremony.

A reference is `file:NAME`. NAME is a file in the adapter's folder. An open key is in this process's memory.
"""

import asyncio
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import SignerError
from cloud.breakwater.pkix.profiles import hash_of
from cloud.crypto.keyfile import KeyFileError, read_key, write_key

CA_CURVES = ("secp256r1", "secp384r1")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class LocalKey:
    """A `CaKey` in memory."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        if private_key.curve.name not in CA_CURVES:
            raise SignerError(f"a CA key cannot be on {private_key.curve.name}; allowed: {', '.join(CA_CURVES)}")
        self._private_key = private_key
        self._algorithm = ec.ECDSA(hash_of(private_key.curve.name))
        self.public_key = private_key.public_key()

    async def sign(self, data: bytes) -> bytes:
        """See `CaKey.sign`. Runs without a thread because a signature takes 0.03 ms."""
        return self._private_key.sign(data, self._algorithm)


class FileKeys:
    """`Keys` in a folder. All files are encrypted under the same passphrase."""

    PREFIX = "file:"

    def __init__(self, directory: Path, passphrase: bytes) -> None:
        self._directory = directory
        self._passphrase = passphrase

    async def open(self, reference: str) -> LocalKey:
        """See `Keys.open`. scrypt takes a few tenths of a second, in a thread. SignerError names the file."""
        path = self._path(reference)
        try:
            key = await asyncio.to_thread(read_key, path, self._passphrase)
        except KeyFileError as error:
            raise SignerError(str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SignerError(f"cannot use {path}: not an ECDSA key")
        return LocalKey(key)

    async def generate(self, authority: str) -> str:
        """See `Keys.generate`."""
        reference = f"{self.PREFIX}{authority}.key.pem"
        path = self._path(reference)
        if path.exists():
            raise SignerError(f"cannot make a key for {authority}: {path} exists, and its key may have signed")
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            await asyncio.to_thread(write_key, path, key, self._passphrase)
        except KeyFileError as error:
            raise SignerError(str(error)) from error
        return reference

    async def aclose(self) -> None:
        """See `Keys.aclose`. This adapter has nothing to release."""

    def _path(self, reference: str) -> Path:
        name = reference.removeprefix(self.PREFIX)
        if not reference.startswith(self.PREFIX) or not _NAME.fullmatch(name):
            raise SignerError(f"cannot use the key {reference!r}: a reference is {self.PREFIX!r} and a file name")
        return self._directory / name
