"""Port: the system calls on the state directory. No other module of the agent makes a file-system call on the state.

The modules of `node/disk` use these functions. Every function calls the
installed hooks before its system call, with its own name and the absolute path. A test injects faults here, in one
place:

    def hook(call: str, path: str) -> None:
        if call == "fsync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with calls.hooked(hook):
        ...

`CALLS` has the name of every function, so that a test can check that its faults cover all of them. A hook can also
wait, count or record. No environment variable and no option installs a hook. `close` calls no hook: a descriptor that
stays open because of an injected fault would be a fault of the test.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Hook = Callable[[str, str], None]

CALLS = (
    *("open", "read", "write", "fsync", "fstat", "fchmod", "fchown", "lstat", "listdir"),
    *("mkdir", "rmdir", "unlink", "rename", "flock"),
)
"""The names of the calls that a hook sees."""

_hooks: list[Hook] = []


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Call `hook(call, path)` before every system call of this process on the state, for the length of the block.

    Hooks are called in the thread that makes the system call.
    """
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)


def _enter(call: str, name: str | Path, at: int | None = None) -> None:
    if _hooks:
        path = os.path.join(_path_of(at), name) if at is not None else os.fspath(name)  # noqa: PTH118 (may be absolute)
        for hook in tuple(_hooks):
            hook(call, path)


def _enter_open(call: str, descriptor: int) -> None:
    if _hooks:
        path = _path_of(descriptor)
        for hook in tuple(_hooks):
            hook(call, path)


def _path_of(descriptor: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (a string is enough)
    return f"descriptor {descriptor}"


# Every function below is the call of its name in `os` or `fcntl`, and raises OSError. `at` is the descriptor of the
# directory that a relative name starts from.


def open_file(name: str | Path, flags: int, mode: int = 0, at: int | None = None) -> int:
    """open(2), always with O_CLOEXEC and O_NOFOLLOW. Returns a descriptor."""
    _enter("open", name, at)
    return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=at)


def close(descriptor: int) -> None:
    """close(2)."""
    os.close(descriptor)


def read(descriptor: int, count: int) -> bytes:
    """read(2)."""
    _enter_open("read", descriptor)
    return os.read(descriptor, count)


def write(descriptor: int, data: memoryview) -> int:
    """write(2). Returns the number of bytes that were written."""
    _enter_open("write", descriptor)
    return os.write(descriptor, data)


def fsync(descriptor: int) -> None:
    """fsync(2)."""
    _enter_open("fsync", descriptor)
    os.fsync(descriptor)


def fstat(descriptor: int) -> os.stat_result:
    """fstat(2)."""
    _enter_open("fstat", descriptor)
    return os.fstat(descriptor)


def fchmod(descriptor: int, mode: int) -> None:
    """fchmod(2)."""
    _enter_open("fchmod", descriptor)
    os.fchmod(descriptor, mode)


def fchown(descriptor: int, user: int) -> None:
    """fchown(2). The group stays."""
    _enter_open("fchown", descriptor)
    os.fchown(descriptor, user, -1)


def lstat(name: str | Path, at: int | None = None) -> os.stat_result:
    """fstatat(2) with AT_SYMLINK_NOFOLLOW."""
    _enter("lstat", name, at)
    return os.stat(name, dir_fd=at, follow_symlinks=False)


def listdir(descriptor: int) -> list[str]:
    """The names in an open directory, in no order."""
    _enter_open("listdir", descriptor)
    return os.listdir(descriptor)


def mkdir(name: str | Path, mode: int, at: int | None = None) -> None:
    """mkdirat(2). The umask may remove bits of `mode`."""
    _enter("mkdir", name, at)
    os.mkdir(name, mode, dir_fd=at)


def rmdir(name: str, at: int) -> None:
    """unlinkat(2) of a directory."""
    _enter("rmdir", name, at)
    os.rmdir(name, dir_fd=at)


def unlink(name: str, at: int) -> None:
    """unlinkat(2)."""
    _enter("unlink", name, at)
    os.unlink(name, dir_fd=at)


def rename(old: str, new: str, at: int) -> None:
    """renameat(2) within one directory."""
    _enter("rename", old, at)
    os.rename(old, new, src_dir_fd=at, dst_dir_fd=at)


def flock(descriptor: int) -> None:
    """flock(2), exclusive. It never waits: a lock that another process holds is EWOULDBLOCK."""
    _enter_open("flock", descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
