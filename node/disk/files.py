"""Adapter: files of the state directory. Writes are durable and happen in one step; reads are bounded.

After a crash or an error a file holds the old bytes or the new bytes, never a mixture. `write_directory` has one
exception, which its docstring names. A symbolic link in place of the file or its directory is refused. A directory that
other users may write is refused. Every JSON state file carries the version of its format and a SHA-256 of its content.
The SHA-256 finds torn and edited files; it does not protect against root, who can compute a new one.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeVar

import msgspec

from node.errors import DiskFull, StateBusy, StateDamaged, StateError, StateUnreadable, StateUnsafe, StateUnwritable
from protocol.encoding import json_decode, json_encode, sha256_hex

STATE_FILE_BYTES_MAX = 256 * 1024
"""The largest state file is a pending activation: the body of a proof (at most 64 kB) in base64, and four TPM blobs."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TRAILER = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n')
_TRAILER_BYTES = len(b',"sha256":""}\n') + 64


class StateFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every JSON state file. A change of a subclass raises its `FORMAT` and defines how the old one is read."""

    FORMAT: ClassVar[int] = 1
    format: int = 1


class _Peek(msgspec.Struct, frozen=True):
    format: int


Stored = TypeVar("Stored", bound=StateFile)


def encode_state(value: StateFile) -> bytes:
    """One line of JSON whose last member, `sha256`, is the digest of the object without it."""
    body = json_encode(value)
    return body[:-1] + f',"sha256":"{sha256_hex(body)}"}}\n'.encode()


def decode_state(path: Path, data: bytes, kind: type[Stored], next_step: str = "") -> Stored:
    """Inverse of `encode_state`. Each value has one accepted encoding.

    Args:
        path: the file's path, for the message of an error.
        data: the bytes of the file.
        kind: the expected type.
        next_step: the next step in the error's text; empty for the default of StateDamaged.

    Raises StateDamaged if the checksum, the format's version, the content or the encoding is wrong.
    """
    trailer = _TRAILER.fullmatch(data[-_TRAILER_BYTES:])
    body = data[:-_TRAILER_BYTES] + b"}"
    if trailer is None or sha256_hex(body).encode() != trailer[1]:
        raise StateDamaged(path, "it is torn or was edited (its checksum does not match)", next_step=next_step)
    try:
        version = json_decode(body, _Peek).format
        if version != kind.FORMAT:
            reason = f"its format is {version}, and this version of Cascadia reads format {kind.FORMAT}"
            raise StateDamaged(
                path, reason, next_step="Install the version of Cascadia that wrote the file, or a newer version."
            )
        value = json_decode(body, kind)
    except msgspec.MsgspecError as error:
        raise StateDamaged(path, f"its content is not valid ({error})", next_step=next_step) from error
    if json_encode(value) != body:
        raise StateDamaged(path, "its content is not in the canonical encoding", next_step=next_step)
    return value


def _write_error(path: Path, error: OSError) -> StateError:
    if error.errno in _NO_SPACE:
        return DiskFull(path)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return StateUnsafe(path.parent, "is not a directory, or is a symbolic link")
    return StateUnwritable(path, error.strerror or str(error))


def _check_directory(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise StateUnsafe(path, "is not a directory, or is a symbolic link", next_step="Name the directory itself.")
    if status.st_uid not in (os.geteuid(), 0):
        raise StateUnsafe(path, f"belongs to another user ({status.st_uid})", next_step=f"Run `chown` on {path}.")
    if status.st_mode & 0o022:
        raise StateUnsafe(path, "can be written by other users", next_step=f"Run `chmod go-w {path}`.")


def ensure_private_dir(path: Path) -> None:
    """Make the directory (mode 0700), durably, if it is missing.

    Raises StateUnsafe if it belongs to another user or other users may write it; StateUnwritable.
    """
    try:
        if not os.path.lexists(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _opened(path.parent, check=False) as parent:
                os.fsync(parent)
        _check_directory(path, os.lstat(path))
    except OSError as error:
        raise _write_error(path, error) from error


@contextmanager
def _opened(directory: Path, *, check: bool = True) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if check:
            _check_directory(directory, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def _write_new(directory: int, name: str, data: bytes, mode: int) -> None:
    """Write a new file and sync it to the disk. A file that an earlier crash left under the name is removed first."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, mode, dir_fd=directory)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file at `path` by `data`, in one step that survives a power cut.

    The steps are: write a temporary file, fsync it, rename it, fsync the directory. After an error the old file is
    intact and the temporary file is removed. Raises DiskFull, StateUnwritable, StateUnsafe.
    """
    temporary = f".{path.name}.tmp"
    try:
        with _opened(path.parent) as directory:
            try:
                _write_new(directory, temporary, data, mode)
                os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:  # An interrupt as well: the temporary file must be removed.
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            os.fsync(directory)
    except OSError as error:
        raise _write_error(path, error) from error


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a directory with these files (mode 0600) at `path`, durably. An existing directory is replaced.

    A new directory appears in one step. A replacement takes two renames, and a crash between them leaves no directory
    at `path`. So a caller may replace only a directory whose content can be made again. Raises as `write_atomic`.
    """
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    try:
        with _opened(path.parent) as parent:
            try:
                _remove_tree(temporary)
                temporary.mkdir(mode=0o700)
                with _opened(temporary) as directory:
                    for name, data in files.items():
                        _write_new(directory, name, data, 0o600)
                    os.fsync(directory)
                _remove_tree(old)
                with suppress(FileNotFoundError):
                    path.rename(old)
                temporary.rename(path)
            except BaseException:  # An interrupt as well: put the old directory back, remove the temporary one.
                if old.is_dir() and not path.exists():
                    old.rename(path)
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            os.fsync(parent)
            _remove_tree(old)
    except OSError as error:
        raise _write_error(path, error) from error


def _remove_tree(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def remove_directory(path: Path) -> None:
    """Remove a directory and its content. A missing directory is no error. Raises StateUnwritable."""
    try:
        _remove_tree(path)
    except OSError as error:
        raise _write_error(path, error) from error


def remove_file(path: Path) -> None:
    """Remove a file durably. A missing file is no error. Raises StateUnwritable."""
    try:
        with _opened(path.parent) as directory:
            with suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=directory)
            os.fsync(directory)
    except OSError as error:
        raise _write_error(path, error) from error


def rename_file(path: Path, name: str) -> None:
    """Rename a file within its directory, durably. A missing file is no error. Raises StateUnwritable."""
    try:
        with _opened(path.parent) as directory:
            with suppress(FileNotFoundError):
                os.rename(path.name, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
    except OSError as error:
        raise _write_error(path, error) from error


def read_bounded(path: Path, limit: int = STATE_FILE_BYTES_MAX) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises FileNotFoundError; StateUnreadable; StateDamaged if it is larger, a symbolic link or no regular file.
    """
    try:
        # Without O_NONBLOCK the open of a FIFO in place of the file would block the agent for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StateDamaged(path, "it is not a regular file")
            data = bytearray()
            while len(data) <= limit:
                piece = os.read(descriptor, limit + 1 - len(data))
                if not piece:
                    return bytes(data)
                data += piece
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StateDamaged(path, "it is a symbolic link") from error
        raise StateUnreadable(path, error.strerror or str(error)) from error
    raise StateDamaged(path, f"it is larger than {limit} bytes")


def read_state(path: Path, kind: type[Stored], next_step: str = "") -> Stored | None:
    """The content of a JSON state file, or None if the file is missing. Raises StateUnreadable, StateDamaged."""
    try:
        data = read_bounded(path)
    except FileNotFoundError:
        return None
    return decode_state(path, data, kind, next_step)


class StateLock:
    """An exclusive lock (flock) on a state directory, inside a `with` block. The kernel ends it with the process."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, and make the directory if it is missing. Never waits.

        Raises StateBusy if another process holds the lock; StateUnsafe, StateUnwritable.
        """
        ensure_private_dir(self._path.parent)
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _write_error(self._path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.EWOULDBLOCK:
                raise StateBusy(self._path) from error
            raise _write_error(self._path, error) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
