"""Adapter: age files (https://age-encryption.org/v1), streamed by the library pyrage.

Only X25519 keys are used. A recipient (`age1...`) encrypts, its identity (`AGE-SECRET-KEY-1...`) decrypts. age
authenticates each 64 KiB and marks the last one, so a changed or truncated file is recognised. The library encrypts
with a passphrase in memory only, so a passphrase wraps a new identity, and that identity's recipient encrypts the file.

The library reads and writes in a thread. A pipe is between the thread and the caller, so memory is bounded.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Thread
from typing import BinaryIO

import pyrage


class AgeError(Exception):
    """The file cannot be encrypted or decrypted."""


class WrongKey(AgeError):
    """None of the identities, or not this passphrase, decrypts the file."""


class KeyTextError(AgeError):
    """A text is no recipient or no identity."""


def make_identity() -> tuple[str, str]:
    """Make a key. Returns its identity, which is secret, and its recipient."""
    identity = pyrage.x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def check_recipient(text: str) -> None:
    """Raises KeyTextError if the text is no recipient."""
    _recipient(text)


def _recipient(text: str) -> pyrage.x25519.Recipient:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise KeyTextError(f"{text!r} is no X25519 recipient of age (age1...)") from error


def identities_in(text: str) -> tuple[str, ...]:
    """Return the identities of a key file as `age-keygen` writes it. Raises KeyTextError, without the text."""
    lines = [line.strip() for line in text.splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    for line in found:
        try:
            pyrage.x25519.Identity.from_str(line)
        except pyrage.IdentityError as error:
            raise KeyTextError("a line is no X25519 identity of age (AGE-SECRET-KEY-1...)") from error
    if not found:
        raise KeyTextError("there is no identity")
    return found


def wrap(identity: str, passphrase: str) -> bytes:
    """Encrypt an identity with a passphrase. Takes a second: age chooses the cost of scrypt by time."""
    return bytes(pyrage.passphrase.encrypt(identity.encode(), passphrase))


def unwrap(wrapped: bytes, passphrase: str) -> str:
    """Return the identity. Raises WrongKey also if `wrapped` is damaged; both look the same."""
    try:
        identity = bytes(pyrage.passphrase.decrypt(wrapped, passphrase)).decode()
        pyrage.x25519.Identity.from_str(identity)
    except (pyrage.DecryptError, pyrage.IdentityError, UnicodeDecodeError) as error:
        raise WrongKey("the passphrase is wrong") from error
    return identity


class _Remembering:
    """A file whose first error is kept, because the library only passes on its text."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def _run(self, call: Callable[[], bytes | int | None]) -> bytes | int | None:
        try:
            return call()
        except OSError as error:
            self.error = error
            raise

    def read(self, size: int = -1) -> bytes | int | None:
        return self._run(lambda: self._file.read(size))

    def write(self, data: bytes) -> bytes | int | None:
        return self._run(lambda: self._file.write(data))

    def flush(self) -> None:
        self._run(self._file.flush)


class _Work:
    """A call of the library in a thread, and its result."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.error: BaseException | None = None
        self._thread = Thread(target=self._run, name="age", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
            self.error = error

    def join(self) -> None:
        self._thread.join()


@contextmanager
def encrypting(target: BinaryIO, recipients: Sequence[str]) -> Iterator[BinaryIO]:
    """Yield a file for the plaintext. When the block ends, `target` has the whole age file.

    Raises:
        KeyTextError: a recipient is none; nothing was written.
        OSError: `target` cannot be written. The block may see BrokenPipeError first; it does not have to handle it.
        AgeError: any other failure of the library.
    """
    keys = [_recipient(each) for each in recipients]
    read_end, write_end = os.pipe()
    reader, writer, kept = os.fdopen(read_end, "rb"), os.fdopen(write_end, "wb", 1024 * 1024), _Remembering(target)

    def call() -> None:
        with reader:  # closed on an error too, so that the block does not wait for the thread
            pyrage.encrypt_io(reader, kept, keys)

    work = _Work(call)
    try:
        yield writer
        writer.close()
    except BrokenPipeError:
        work.join()
        _raise(work, kept)
        raise
    finally:
        with suppress(OSError):
            writer.close()
        work.join()
    _raise(work, kept)


def _raise(work: _Work, kept: _Remembering) -> None:
    if kept.error is not None:
        raise kept.error
    if work.error is not None:
        raise AgeError(str(work.error)) from work.error


@contextmanager
def decrypting(source: BinaryIO, identities: Sequence[str]) -> Iterator[BinaryIO]:
    """Yield a file with the plaintext. Its end may come early; the error is raised when the block ends.

    Raises:
        WrongKey: no identity decrypts the file.
        OSError: `source` cannot be read.
        AgeError: the file is truncated or damaged.
    """
    keys = [pyrage.x25519.Identity.from_str(each) for each in identities]
    read_end, write_end = os.pipe()
    reader, writer, kept = os.fdopen(read_end, "rb", 1024 * 1024), os.fdopen(write_end, "wb", 0), _Remembering(source)

    def call() -> None:
        with writer:
            pyrage.decrypt_io(kept, writer, keys)

    work = _Work(call)
    ended = False
    try:
        yield reader
        ended = not reader.read(1)
    finally:
        reader.close()
        work.join()
        if work.error is not None and (ended or not isinstance(work.error, BrokenPipeError)):
            _raise_reading(work, kept)


def _raise_reading(work: _Work, kept: _Remembering) -> None:
    if kept.error is not None:
        raise kept.error
    if isinstance(work.error, pyrage.DecryptError) and "No matching keys" in str(work.error):
        raise WrongKey("no identity decrypts the file") from work.error
    raise AgeError(str(work.error)) from work.error
