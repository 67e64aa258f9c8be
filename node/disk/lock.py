"""Adapter: the exclusive lock on a state directory. It needs no write access, so a read-only disk has it as well."""

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from node.disk import calls
from node.disk.files import MODE_FILE, ensure_private_dir, open_directory, write_error
from node.errors import StateBusy

_NO_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})
"""A network file system may lock files only, and only files that are open for writing."""


class StateLock:
    """An exclusive lock (flock) on a state directory, inside a `with` block. The kernel ends it with the process.

    The lock is on the directory itself and on its file `lock`. The directory can be locked on a read-only or full disk,
    where the file cannot be made. The file can be locked on network file systems that lock no directory, and a process
    of an earlier version locks the file only.
    """

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir
        self._path = state_dir / "lock"
        self._descriptors: list[int] = []

    def acquire(self) -> None:
        """Take the lock, and make the directory if it is missing. Never waits.

        Raises StateBusy if another process holds the lock; StateUnsafe, StateUnwritable.
        """
        ensure_private_dir(self._directory)
        try:
            locked = self._lock(open_directory(self._directory))
            self._lock_file(required=not locked)
        except BaseException as error:  # An interrupt as well: the descriptors must be closed.
            self.release()
            if isinstance(error, OSError):
                raise write_error(self._path, error) from error
            raise

    def _lock(self, descriptor: int) -> bool:
        """Lock an open file or directory. Returns False if its file system has no such lock. Raises StateBusy."""
        self._descriptors.append(descriptor)
        try:
            calls.flock(descriptor)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                raise StateBusy(self._path) from error
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _lock_file(self, *, required: bool) -> None:
        """Lock the file `lock`. Raises OSError if the file is `required` and cannot be locked; StateBusy."""
        try:
            descriptor = calls.open_file(self._path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, MODE_FILE)
        except OSError:
            if required:
                raise
            try:
                descriptor = calls.open_file(self._path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                return
        if not self._lock(descriptor) and required:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        self._make_private(descriptor)

    def _make_private(self, descriptor: int) -> None:
        """Set the file's mode, which the umask may have changed. Other users must not hold the lock."""
        try:
            if stat.S_IMODE(calls.fstat(descriptor).st_mode) != MODE_FILE:
                calls.fchmod(descriptor, MODE_FILE)
        except OSError:
            return  # The lock on the directory holds.

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        while self._descriptors:
            calls.close(self._descriptors.pop())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
