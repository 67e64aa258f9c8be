"""Private keys at rest: PKCS#8, encrypted, in files of mode 0600 that appear whole or not at all.

A passphrase comes from a file of its own, never from an argument or an environment value, which other processes can
read. What the group or the world can read is refused, not warned about. It is not a key store: which key is for
what is the business of its caller.
"""

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey

SECRET_FILE_BYTES_MAX = 64 * 1024
"""Keys and passphrases are far below; more is another file named by mistake."""
PASSPHRASE_BYTES_MIN = 16
"""`cascade init` makes passphrases of 24 random bytes (32 letters); a shorter one was typed by a person in a hurry."""


class KeyFileError(Exception):
    """A key or passphrase file cannot be used; the message names the file and what to do, never its content."""


def write_secret(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 atomically: the old content or the new one, durable when this returns.

    Raises:
        KeyFileError: the file cannot be written; an old one is intact.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_private(path: Path) -> None:
    """Refuse a secret that others can read.

    Raises:
        KeyFileError: missing, not a regular file, another user's, or open to group or world.
    """
    try:
        _check_private(path, path.stat())
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"cannot use {path}: it is not a regular file")
    if status.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"cannot use {path}: it belongs to another user (uid {status.st_uid})")
    if status.st_mode & 0o077:
        raise KeyFileError(f"cannot use {path}: others can read it; run: chmod 600 {path}")


def read_secret(path: Path) -> bytes:
    """The content of a secret file, checked through the open file so that none can be swapped in between.

    Raises:
        KeyFileError: see `check_private`; or larger than `SECRET_FILE_BYTES_MAX`.
    """
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > SECRET_FILE_BYTES_MAX:
        raise KeyFileError(f"cannot use {path}: it is larger than {SECRET_FILE_BYTES_MAX} bytes")
    return content


def read_passphrase(path: Path) -> bytes:
    """The passphrase in a file, without its line end.

    Raises:
        KeyFileError: as `read_secret`; or shorter than `PASSPHRASE_BYTES_MIN`.
    """
    passphrase = read_secret(path).strip()
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise KeyFileError(f"cannot use {path}: the passphrase is shorter than {PASSPHRASE_BYTES_MIN} bytes")
    return passphrase


def write_key(path: Path, key: PrivateKey, passphrase: bytes) -> None:
    """Write a private key, encrypted. Raises KeyFileError."""
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise KeyFileError(f"cannot write {path}: the passphrase is shorter than {PASSPHRASE_BYTES_MIN} bytes")
    write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase),
        ),
    )


def read_key(path: Path, passphrase: bytes) -> PrivateKey:
    """Read a private key that `write_key` wrote.

    Raises:
        KeyFileError: as `read_secret`; not encrypted; wrong passphrase; not a key of a kind we use.
    """
    content = read_secret(path)
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in content:
        raise KeyFileError(f"cannot use {path}: it is not an encrypted private key")
    try:
        key = serialization.load_pem_private_key(content, passphrase)
    except ValueError as error:
        raise KeyFileError(f"cannot decrypt {path}: wrong passphrase or damaged file") from error
    if not isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise KeyFileError(f"cannot use {path}: not an elliptic-curve key")
    return key
