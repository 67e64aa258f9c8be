"""Store: private keys at rest, as encrypted PKCS#8 in files of mode 0600. A file is written whole or not at all.

A passphrase comes from its own file or from a systemd credential. It never comes from an argument or an environment
variable, which other processes can read. A secret file that the group or other users can read is refused. Callers
decide what each key is for. Secrets in memory are not protected: Python copies what it reads, so neither a key nor a
passphrase can be erased.
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
    """Parameters of scrypt (RFC 7914 section 2). It needs 128 * n * r bytes of memory and p rounds over them."""

    n: int
    r: int
    p: int


COST = ScryptCost(n=2**14, r=8, p=5)
"""The setting with 16 MiB of OWASP's Password Storage Cheat Sheet, which lists several equally strong ones. It takes a
third of a second a key.

A passphrase of `cascade init` (192 random bits) does not need this cost. A passphrase that a person chose does. More
memory and fewer rounds would be as strong, but `openssl pkey` cannot read a file that needs 32 MiB or more, and it must
be able to read our files in a disaster."""

SECRET_FILE_BYTES_MAX = 64 * 1024
"""Keys and passphrases are far smaller. A larger file was named by mistake."""
PASSPHRASE_BYTES_MIN = 16
"""`cascade init` makes passphrases of 24 random bytes (32 characters). A passphrase below this length was chosen by a
person and is too easy to guess."""
CREDENTIAL = "credential:"
"""Prefix of a secret's name in the settings: systemd passes the secret to the service (`LoadCredential=`,
systemd.exec(5))."""
_CREDENTIAL_NAME = re.compile(r"(?!\.{1,2}$)[\x21-\x2e\x30-\x39\x3b-\x7e]{1,255}")
_KEY_BYTES = 32
_OURS = ("1.2.840.113549.1.5.13", "1.3.6.1.4.1.11591.4.11", "2.16.840.1.101.3.4.1.42")
_PBES2, _SCRYPT, _AES_256_CBC = map(oid, _OURS)
_MEMORY_MAX = 32 * 1024 * 1024
"""Memory for scrypt that OpenSSL allows. A file that needs more was not written by this module."""


class KeyFileError(Exception):
    """A key or passphrase file cannot be used. The message names the file and the next step, but never its content."""


def secret_path(name: str, base: Path) -> Path:
    """Return the path of a secret that the settings name: a path, absolute or relative to `base`, or `credential:NAME`.

    Raises:
        KeyFileError: NAME is not the name of a credential, or systemd has passed no credentials to this process.
    """
    if not name.startswith(CREDENTIAL):
        return base / name
    credential = name.removeprefix(CREDENTIAL)
    if not _CREDENTIAL_NAME.fullmatch(credential):
        raise KeyFileError(f"cannot use {name}: {credential!r} is not the name of a credential")
    directory = _credentials()
    if directory is None:
        raise KeyFileError(
            f"cannot use {name}: systemd has passed no credentials; set LoadCredential={credential}:FILE in the unit"
        )
    return directory / credential


def passed_credential(credential: str, name: str) -> str:
    """Return the name of a secret for `secret_path`: `credential:CREDENTIAL` if systemd has passed it, else `name`.

    A `name` that is the name of a credential is returned unchanged.
    """
    directory = _credentials()
    if directory is None or name.startswith(CREDENTIAL) or not (directory / credential).exists():
        return name
    return CREDENTIAL + credential


def _credentials() -> Path | None:
    """Return the folder with the credentials that systemd has passed to this service, or None."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(directory) if directory else None


def write_secret(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 atomically. The content is durable when the function returns.

    Raises:
        KeyFileError: the file cannot be written; an old file is unchanged.
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
        except BaseException:  # also for a cancellation: no scratch file with a secret may remain
            scratch.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_private(path: Path, also: int | None = None) -> None:
    """Check that no other user can read a secret file. `also` is the uid of a further user who may own it.

    Raises:
        KeyFileError: the file is missing, is not a regular file, belongs to another user, or is readable by its group
            or by all users.
    """
    try:
        _check_private(path, path.stat(), also)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error


def _check_private(path: Path, status: os.stat_result, also: int | None = None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"cannot use {path}: it is not a regular file")
    if status.st_uid not in (os.geteuid(), 0, also):
        raise KeyFileError(f"cannot use {path}: it belongs to another user (uid {status.st_uid})")
    if path.parent == _credentials():
        # systemd stores a credential as a file of root with mode 0400 and gives the service's user read access by an
        # ACL. The ACL's mask appears in the group's mode bits (src/core/exec-credential.c), but the group has no
        # access. Without ACLs, systemd makes the service's user the owner.
        if status.st_mode & 0o337:
            mode = stat.S_IMODE(status.st_mode)
            raise KeyFileError(f"cannot use {path}: the mode of the credential is {mode:o}, not 400")
    elif status.st_mode & 0o077:
        raise KeyFileError(f"cannot use {path}: others can read it; run: chmod 600 {path}")


def read_secret(path: Path) -> bytes:
    """Return the content of a secret file. The checks use the open file, so that it cannot be exchanged in between.

    Raises:
        KeyFileError: as for `check_private`; or the file is larger than `SECRET_FILE_BYTES_MAX`.
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
    """Return the passphrase in a file, without white space around it.

    Raises:
        KeyFileError: as for `read_secret`; or the passphrase is shorter than `PASSPHRASE_BYTES_MIN`.
    """
    passphrase = read_secret(path).strip()
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise KeyFileError(f"cannot use {path}: the passphrase is shorter than {PASSPHRASE_BYTES_MIN} bytes")
    return passphrase


def write_key(path: Path, key: PrivateKey, passphrase: bytes, cost: ScryptCost | None = None) -> None:
    """Write a private key, encrypted with `passphrase` at `cost` (default `COST`).

    Raises:
        KeyFileError: the passphrase is shorter than `PASSPHRASE_BYTES_MIN`, or the file cannot be written.
    """
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise KeyFileError(f"cannot write {path}: the passphrase is shorter than {PASSPHRASE_BYTES_MIN} bytes")
    write_secret(path, encrypt_key(key, passphrase, cost or COST, os.urandom(16), os.urandom(16)))


def encrypt_key(key: PrivateKey, passphrase: bytes, cost: ScryptCost, salt: bytes, iv: bytes) -> bytes:
    """Return a PKCS#8 EncryptedPrivateKeyInfo in PEM: PBES2 (RFC 8018 section 6.2) with scrypt and AES-256-CBC.

    RFC 7914 section 7 defines scrypt in PBES2. `salt` and `iv` are 16 random bytes each. The library reads such files
    but writes PBKDF2 only, so this function builds the structure itself.
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
    """RFC 7914 section 7.1, scrypt-params."""

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
    """RFC 5208 section 6, EncryptedPrivateKeyInfo, with the one encryption scheme that this module writes."""

    algorithm: _Pbes2
    content: bytes


def _decrypt(content: bytes, passphrase: bytes) -> PrivateKeyTypes:
    """Decrypt the content of a key file. Raises ValueError.

    The library can do all of this, but holds the interpreter's lock while scrypt runs. Meanwhile no other key could be
    read and no request answered. So this function runs scrypt itself, and leaves files of other forms to the library.
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
    """Write new keys, several at the same time.

    Raises:
        KeyFileError: as for `write_key`; or a file exists already, because its key may have signed something.
    """
    if used := [path for path in keys if path.exists()]:
        raise KeyFileError(f"cannot write {used[0]}: the file exists already, and its key may have been used")
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        list(threads.map(lambda path: write_key(path, keys[path], passphrase), keys))


def read_keys(paths: Sequence[Path], passphrase: bytes) -> list[PrivateKey]:
    """Read several keys, as many at the same time as there are processors. Raises KeyFileError."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        return list(threads.map(lambda path: read_key(path, passphrase), paths))


def read_key(path: Path, passphrase: bytes) -> PrivateKey:
    """Read a private key from a file of `write_key`, or from a PBKDF2 file of an earlier version.

    Takes 0.3 s at `COST`.

    Raises:
        KeyFileError: as for `read_secret`; or the file is not encrypted, the passphrase is wrong, or the key is neither
            an elliptic-curve key nor an Ed25519 key.
    """
    content = read_secret(path)
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in content:
        raise KeyFileError(f"cannot use {path}: it is not an encrypted private key")
    try:
        key = _decrypt(content, passphrase)
    except ValueError as error:
        raise KeyFileError(
            f"cannot decrypt {path}: the passphrase is wrong or the file is damaged; "
            "check which passphrase file the settings name"
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise KeyFileError(f"cannot use {path}: its key is neither an elliptic-curve key nor an Ed25519 key")
    return key
