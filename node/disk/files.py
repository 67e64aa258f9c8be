"""Adapter: files of the state directory. Writes are durable and happen in one step; reads are bounded.

After a crash or an error a file holds the old bytes or the new bytes, never a mixture. `write_directory` has one
exception, which its docstring names. A symbolic link in place of the file or its directory is refused. Every JSON state
file carries the version of its format and a SHA-256 of its content. The SHA-256 finds torn and edited files; it does
not protect against a process that can write the file.

So a file counts only if root or the agent's user owns it and no other user may write it. `read_state` checks this on
the open descriptor. A file whose content is signed counts in any case. A file keeps its owner when it is moved, so a
directory that other users could write does not spoil the files in it: `node.disk.modes` removes the permission.

Every error is a StateError. Only ENOENT means that a file is missing. `node.disk.calls` has the system calls.
"""

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec

from node.disk import calls
from node.errors import DiskFull, StateDamaged, StateError, StateUnreadable, StateUnsafe, StateUnwritable
from protocol.encoding import json_decode, json_encode, sha256_hex

log = logging.getLogger("cascadia.state")

STATE_FILE_BYTES_MAX = 256 * 1024
"""The largest state file is a pending activation: the body of a proof (at most 64 kB) in base64, and four TPM blobs."""

MODE_FILE = 0o600
MODE_DIRECTORY = 0o700
MODE_PARENT = 0o755
"""Mode of a directory above the state directory, if the agent has to make it."""
OTHERS_WRITE = 0o022

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


def write_error(path: Path, error: OSError) -> StateError:
    """The error of a write to `path` as a StateError."""
    if error.errno in _NO_SPACE:
        return DiskFull(path)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return StateUnsafe(path.parent, "is not a directory, or is a symbolic link")
    return StateUnwritable(path, error.strerror or str(error))


def _read_error(path: Path, error: OSError) -> StateError:
    if error.errno == errno.ELOOP:
        return StateDamaged(path, "it is a symbolic link")
    return StateUnreadable(path, error.strerror or str(error))


def open_to_others(status: os.stat_result) -> str:
    """How a user other than root and the agent's could have changed the file or directory. Empty if in no way."""
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user ({status.st_uid})"
    if status.st_mode & OTHERS_WRITE and not stat.S_ISLNK(status.st_mode):
        return "can be written by other users"
    return ""


def _check_directory(path: Path, descriptor: int) -> None:
    """Check the owner of an open directory, and take the write permission from other users.

    Raises StateUnsafe if it belongs to another user, or if it is a shared directory such as `/tmp`.
    """
    status = calls.fstat(descriptor)
    if status.st_uid not in (0, os.geteuid()):
        raise StateUnsafe(path, f"belongs to another user ({status.st_uid})", next_step=f"Run `chown` on {path}.")
    if not status.st_mode & OTHERS_WRITE:
        return
    if status.st_mode & stat.S_ISVTX:
        raise StateUnsafe(path, "is shared by all users", next_step="Name a directory of the agent alone.")
    with suppress(OSError):  # On a read-only disk other users cannot write either.
        calls.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~OTHERS_WRITE)
        log.warning("other users could write %s; the agent removed their permission", path)


def open_directory(path: Path | str, at: int | None = None) -> int:
    """A descriptor of a directory that is no symbolic link. Raises OSError."""
    return calls.open_file(path, os.O_RDONLY | os.O_DIRECTORY, at=at)


@contextmanager
def _opened(directory: Path, *, check: bool = True) -> Iterator[int]:
    descriptor = open_directory(directory)
    try:
        if check:
            _check_directory(directory, descriptor)
        yield descriptor
    finally:
        calls.close(descriptor)


def ensure_private_dir(path: Path) -> None:
    """Make the directory (mode 0700), durably, if it is missing. Take the write permission from other users.

    Missing parents are made with mode 0755. Modes do not depend on the umask. Raises StateUnsafe if the directory
    belongs to another user, is a symbolic link or no directory; StateUnwritable, DiskFull.
    """
    try:
        try:
            with _opened(path):
                return
        except FileNotFoundError:
            _make_directory(path, MODE_DIRECTORY)
        with _opened(path):
            return
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise StateUnsafe(
                path, "is not a directory, or is a symbolic link", next_step="Name the directory itself."
            ) from error
        raise write_error(path, error) from error


def _make_directory(path: Path, mode: int) -> None:
    """Make a directory and its missing parents, durably. Raises OSError."""
    try:
        with _opened(path.parent, check=False) as parent:
            with suppress(FileExistsError):
                calls.mkdir(path.name, mode, parent)
                descriptor = open_directory(path.name, parent)
                try:
                    calls.fchmod(descriptor, mode)
                finally:
                    calls.close(descriptor)
            calls.fsync(parent)
    except FileNotFoundError:
        if path.parent == path.parent.parent:
            raise
        _make_directory(path.parent, MODE_PARENT)
        _make_directory(path, mode)


def _write_new(directory: int, name: str, data: bytes, mode: int, *, durable: bool = True) -> None:
    """Write a new file and, if `durable`, sync it to the disk.

    A file that an earlier crash left under the name is removed first.
    """
    with suppress(FileNotFoundError):
        calls.unlink(name, directory)
    descriptor = calls.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, directory)
    try:
        calls.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[calls.write(descriptor, view) :]
        if durable:
            calls.fsync(descriptor)
    finally:
        calls.close(descriptor)


def write_scratch(path: Path, data: bytes) -> None:
    """Write a new file (mode 0600) that a crash may lose. Raises as `write_atomic`."""
    try:
        with _opened(path.parent) as directory:
            _write_new(directory, path.name, data, MODE_FILE, durable=False)
    except OSError as error:
        raise write_error(path, error) from error


def write_atomic(path: Path, data: bytes, mode: int = MODE_FILE) -> None:
    """Replace the file at `path` by `data`, in one step that survives a power cut.

    The steps are: write a temporary file, fsync it, rename it, fsync the directory. After an error the old file is
    intact and the temporary file is removed. Raises DiskFull, StateUnwritable, StateUnsafe.
    """
    temporary = f".{path.name}.tmp"
    try:
        with _opened(path.parent) as directory:
            try:
                _write_new(directory, temporary, data, mode)
                calls.rename(temporary, path.name, directory)
            except BaseException:  # An interrupt as well: the temporary file must be removed.
                with suppress(OSError):
                    calls.unlink(temporary, directory)
                raise
            calls.fsync(directory)
    except OSError as error:
        raise write_error(path, error) from error


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a directory with these files (mode 0600) at `path`, durably. An existing directory is replaced.

    A new directory appears in one step. A replacement takes two renames, and a crash between them leaves no directory
    at `path`. So a caller may replace only a directory whose content can be made again. Raises as `write_atomic`.
    """
    temporary, old = f".{path.name}.tmp", f".{path.name}.old"
    try:
        with _opened(path.parent) as parent:
            moved = False
            try:
                _remove_tree(temporary, parent)
                calls.mkdir(temporary, MODE_DIRECTORY, parent)
                _fill_directory(temporary, parent, files)
                _remove_tree(old, parent)
                with suppress(FileNotFoundError):
                    calls.rename(path.name, old, parent)
                    moved = True
                calls.rename(temporary, path.name, parent)
            except BaseException:  # An interrupt as well: put the old directory back, remove the temporary one.
                with suppress(OSError):
                    if moved:
                        calls.rename(old, path.name, parent)
                with suppress(OSError):
                    _remove_tree(temporary, parent)
                raise
            calls.fsync(parent)
            _remove_tree(old, parent)
    except OSError as error:
        raise write_error(path, error) from error


def _fill_directory(name: str, parent: int, files: Mapping[str, bytes]) -> None:
    descriptor = open_directory(name, parent)
    try:
        calls.fchmod(descriptor, MODE_DIRECTORY)
        for file, data in files.items():
            _write_new(descriptor, file, data, MODE_FILE)
        calls.fsync(descriptor)
    finally:
        calls.close(descriptor)


def _remove_tree(name: str, parent: int) -> None:
    """Remove a file or a directory with its content. A missing one is no error. Raises OSError."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(calls.lstat(name, parent).st_mode):
            calls.unlink(name, parent)
            return
        descriptor = open_directory(name, parent)
        try:
            for entry in calls.listdir(descriptor):
                _remove_tree(entry, descriptor)
        finally:
            calls.close(descriptor)
        calls.rmdir(name, parent)


def remove_directory(path: Path, *, shared_parent: bool = False) -> None:
    """Remove a directory and its content. A missing directory is no error. Raises StateUnwritable, StateUnsafe.

    Its parent must not be open to other users, unless it is a `shared_parent` such as `/dev/shm`.
    """
    try:
        with suppress(FileNotFoundError), _opened(path.parent, check=not shared_parent) as parent:
            _remove_tree(path.name, parent)
    except OSError as error:
        raise write_error(path, error) from error


def remove_file(path: Path) -> None:
    """Remove a file durably. A missing file is no error. Raises StateUnwritable."""
    try:
        with _opened(path.parent) as directory:
            with suppress(FileNotFoundError):
                calls.unlink(path.name, directory)
            calls.fsync(directory)
    except OSError as error:
        raise write_error(path, error) from error


def rename_file(path: Path, name: str) -> None:
    """Rename a file within its directory, durably. A missing file is no error. Raises StateUnwritable."""
    try:
        with _opened(path.parent) as directory:
            with suppress(FileNotFoundError):
                calls.rename(path.name, name, directory)
            calls.fsync(directory)
    except OSError as error:
        raise write_error(path, error) from error


def owner_of(path: Path) -> int | None:
    """The id of the user who owns the path, or None if the path is missing. Links are not followed.

    Only ENOENT means that the path is missing. Every other error raises StateUnreadable.
    """
    try:
        return calls.lstat(path).st_uid
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _read_error(path, error) from error


def exists(path: Path) -> bool:
    """Whether the path exists. Raises as `owner_of`."""
    return owner_of(path) is not None


def is_regular(path: Path) -> bool:
    """Whether the path is a regular file. Links are not followed. Raises StateUnreadable."""
    try:
        return stat.S_ISREG(calls.lstat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _read_error(path, error) from error


def list_directory(path: Path) -> tuple[str, ...]:
    """The names in a directory, sorted. Empty if the directory is missing.

    Raises StateUnreadable if the directory cannot be listed; StateDamaged if it is a link or no directory.
    """
    try:
        with _opened(path, check=False) as directory:
            return tuple(sorted(calls.listdir(directory)))
    except FileNotFoundError:
        return ()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise StateDamaged(path, "it is not a directory") from error
        raise _read_error(path, error) from error


def read_bounded(path: Path, limit: int = STATE_FILE_BYTES_MAX, *, private: bool = False) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    With `private` the owner and the mode are checked on the open descriptor.
    Raises FileNotFoundError; StateUnreadable; StateDamaged if it is larger, a symbolic link or no regular file;
    StateUnsafe if `private` and another user could have written it.
    """
    try:
        # Without O_NONBLOCK the open of a FIFO in place of the file would block the agent for ever.
        descriptor = calls.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = calls.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StateDamaged(path, "it is not a regular file")
            if private and (reason := open_to_others(status)):
                raise StateUnsafe(path, reason)
            data = bytearray()
            while len(data) <= limit:
                piece = calls.read(descriptor, limit + 1 - len(data))
                if not piece:
                    return bytes(data)
                data += piece
        finally:
            calls.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _read_error(path, error) from error
    raise StateDamaged(path, f"it is larger than {limit} bytes")


def read_state(path: Path, kind: type[Stored], next_step: str = "", *, signed: bool = False) -> Stored | None:
    """The content of a JSON state file, or None if the file is missing.

    Owner and mode are checked, unless the content is `signed` and the caller verifies the signature.
    Raises StateUnreadable, StateDamaged, StateUnsafe.
    """
    try:
        data = read_bounded(path, private=not signed)
    except FileNotFoundError:
        return None
    return decode_state(path, data, kind, next_step)
