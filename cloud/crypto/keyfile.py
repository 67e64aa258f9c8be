"""Store of private keys at rest: PKCS#8, encrypted, in files of mode 0600 that appear whole or not at all.

A passphrase comes from a file of its own or from a systemd credential, never from an argument or an environment value,
which other processes can read. What the group or the world can read is refused, not warned about. It is not a key
store: which key is for what is the business of its caller. Nothing is promised about memory: Python copies what it
reads, so neither a key nor a passphrase can be wiped.
"""

import os
import re
import stat
import textwrap
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.x509 import ObjectIdentifier

from cloud.crypto.der import integer, octet_string, oid, sequence

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey


class ScryptCost(msgspec.Struct, frozen=True):
    """The parameters of scrypt (RFC 7914 section 2): it takes 128 * n * r bytes of memory, p times over."""

    n: int
    r: int
    p: int


COST = ScryptCost(n=2**14, r=8, p=5)
"""One of the equal settings of OWASP's Password Storage Cheat Sheet, that of 16 MiB: a third of a second a key.

A passphrase of `cascade init` (192 random bits) needs none of it; one that a person typed does. More memory and fewer
rounds would be as good, but `openssl pkey` reads no file that takes 32 MiB or more, and must read ours in a disaster.
"""

SECRET_FILE_BYTES_MAX = 64 * 1024
"""Keys and passphrases are far below; more is another file named by mistake."""
PASSPHRASE_BYTES_MIN = 16
"""`cascade init` makes passphrases of 24 random bytes (32 letters); a shorter one was typed by a person in a hurry."""
CREDENTIAL = "credential:"
"""Begins the name of a secret that systemd hands over (`LoadCredential=`, systemd.exec(5)) instead of a path."""
_CREDENTIAL_NAME = re.compile(r"(?!\.{1,2}$)[\x21-\x2e\x30-\x39\x3b-\x7e]{1,255}")
_KEY_BYTES = 32
_OURS = ("1.2.840.113549.1.5.13", "1.3.6.1.4.1.11591.4.11", "2.16.840.1.101.3.4.1.42")
_PBES2, _SCRYPT, _AES_256_CBC = map(oid, _OURS)
_MEMORY_MAX = 32 * 1024 * 1024
"""What OpenSSL takes; a file that asks for more is not ours."""


class KeyFileError(Exception):
    """A key or passphrase file cannot be used; the message names the file and what to do, never its content."""


def secret_path(name: str, base: Path) -> Path:
    """Where a secret of the settings lies: a path, relative to `base` or absolute, or `credential:NAME`.

    Raises:
        KeyFileError: not the name of a credential, or this process was given none.
    """
    if not name.startswith(CREDENTIAL):
        return base / name
    credential = name.removeprefix(CREDENTIAL)
    if not _CREDENTIAL_NAME.fullmatch(credential):
        raise KeyFileError(f"cannot use {name}: not the name of a credential")
    directory = _credentials()
    if directory is None:
        raise KeyFileError(f"cannot use {name}: no credentials here; set LoadCredential={credential}:FILE in the unit")
    return directory / credential


def _credentials() -> Path | None:
    """The folder in which systemd lays this service's credentials."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(directory) if directory else None


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
    if path.parent == _credentials():
        # systemd gives its user read access by an ACL on a file 0400 of root's, whose mask stands in the group's bits
        # (src/core/exec-credential.c); the group itself has no access. Without ACLs it gives the file to the user.
        if status.st_mode & 0o337:
            raise KeyFileError(f"cannot use {path}: a credential of mode {stat.S_IMODE(status.st_mode):o}, not 400")
    elif status.st_mode & 0o077:
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


def write_key(path: Path, key: PrivateKey, passphrase: bytes, cost: ScryptCost | None = None) -> None:
    """Write a private key, encrypted, at `COST` unless `cost` is given. Raises KeyFileError."""
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise KeyFileError(f"cannot write {path}: the passphrase is shorter than {PASSPHRASE_BYTES_MIN} bytes")
    write_secret(path, encrypt_key(key, passphrase, cost or COST, os.urandom(16), os.urandom(16)))


def encrypt_key(key: PrivateKey, passphrase: bytes, cost: ScryptCost, salt: bytes, iv: bytes) -> bytes:
    """PKCS#8 EncryptedPrivateKeyInfo in PEM: PBES2 (RFC 8018 section 6.2), scrypt (RFC 7914 section 7), AES-256-CBC.

    Done by hand because the library reads such files and writes PBKDF2 alone. Salt and IV are 16 random bytes each.
    """
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    derived = Scrypt(salt=salt, length=_KEY_BYTES, n=cost.n, r=cost.r, p=cost.p).derive(passphrase)
    padder = padding.PKCS7(algorithms.AES.block_size).padder()
    encryptor = Cipher(algorithms.AES256(derived), modes.CBC(iv)).encryptor()
    encrypted = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    costs = sequence(octet_string(salt), *(integer(value) for value in (cost.n, cost.r, cost.p, _KEY_BYTES)))
    scheme = sequence(sequence(_SCRYPT, costs), sequence(_AES_256_CBC, octet_string(iv)))
    text = b64encode(sequence(sequence(_PBES2, scheme), octet_string(encrypted))).decode()
    lines = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", *textwrap.wrap(text, 64), "-----END ENCRYPTED PRIVATE KEY-----"]
    return "\n".join([*lines, ""]).encode()


@asn1.sequence
class _ScryptParameters:
    """RFC 7914 section 7.1."""

    salt: bytes
    n: int
    r: int
    p: int
    length: int


@asn1.sequence
class _Derivation:
    algorithm: ObjectIdentifier
    parameters: _ScryptParameters


@asn1.sequence
class _Encryption:
    algorithm: ObjectIdentifier
    iv: bytes


@asn1.sequence
class _Scheme:
    derivation: _Derivation
    encryption: _Encryption


@asn1.sequence
class _Pbes2:
    algorithm: ObjectIdentifier
    scheme: _Scheme


@asn1.sequence
class _EncryptedPrivateKeyInfo:
    """RFC 5208 section 6, with the one scheme that is written here."""

    algorithm: _Pbes2
    content: bytes


def _decrypt(content: bytes, passphrase: bytes) -> PrivateKeyTypes:
    """A key out of its file. Raises ValueError.

    The library would do all of it, but holds the interpreter while scrypt runs: no other key would be read meanwhile,
    and no request answered.
    """
    try:
        found = asn1.decode_der(
            _EncryptedPrivateKeyInfo, b64decode(b"".join(content.split(b"\n")[1:-2]), validate=True)
        )
    except ValueError:
        return serialization.load_pem_private_key(content, passphrase)
    scheme = found.algorithm.scheme
    derivation, encryption = scheme.derivation, scheme.encryption
    algorithms_named = tuple(each.algorithm.dotted_string for each in (found.algorithm, derivation, encryption))
    cost = ScryptCost(derivation.parameters.n, derivation.parameters.r, derivation.parameters.p)
    if algorithms_named != _OURS or derivation.parameters.length != _KEY_BYTES or 128 * cost.n * cost.r > _MEMORY_MAX:
        return serialization.load_pem_private_key(content, passphrase)
    salt = derivation.parameters.salt
    derived = Scrypt(salt=salt, length=_KEY_BYTES, n=cost.n, r=cost.r, p=cost.p).derive(passphrase)
    decryptor = Cipher(algorithms.AES256(derived), modes.CBC(encryption.iv)).decryptor()
    unpadder = padding.PKCS7(algorithms.AES.block_size).unpadder()
    padded = decryptor.update(found.content) + decryptor.finalize()
    return serialization.load_der_private_key(unpadder.update(padded) + unpadder.finalize(), None)


def write_keys(keys: Mapping[Path, PrivateKey], passphrase: bytes) -> None:
    """New keys, side by side. Raises KeyFileError, also for a file that is there already: its key may have signed."""
    if used := [path for path in keys if path.exists()]:
        raise KeyFileError(f"cannot write {used[0]}: there is a key already")
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        list(threads.map(lambda path: write_key(path, keys[path], passphrase), keys))


def read_keys(paths: Sequence[Path], passphrase: bytes) -> list[PrivateKey]:
    """Several keys, side by side: as many at a time as there are processors. Raises KeyFileError."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        return list(threads.map(lambda path: read_key(path, passphrase), paths))


def read_key(path: Path, passphrase: bytes) -> PrivateKey:
    """Read a private key that `write_key` wrote, or an earlier release with PBKDF2. A third of a second at `COST`.

    Raises:
        KeyFileError: as `read_secret`; not encrypted; wrong passphrase; not a key of a kind we use.
    """
    content = read_secret(path)
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in content:
        raise KeyFileError(f"cannot use {path}: it is not an encrypted private key")
    try:
        key = _decrypt(content, passphrase)
    except ValueError as error:
        raise KeyFileError(
            f"cannot decrypt {path}: wrong passphrase or damaged file; check which passphrase file the settings name"
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise KeyFileError(f"cannot use {path}: not an elliptic-curve key")
    return key
