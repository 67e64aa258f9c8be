"""Adapter: the files that say what is granted now. Each file starts the gate of its name (`docs/gating.md`).

The directory is beside the socket, in memory on a real machine (`/run`). A path unit of systemd waits for a file. While
the gate runs it asks the socket, so a file only begins a grant. No file is removed before a verdict is settled, and none
at the end of the agent. A directory that cannot be used is a condition, and never ends the agent.
"""

import logging
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from node.conditions import Conditions
from node.errors import NodeError
from node.exits import Exit
from node.gating.names import LICENCE, instance_of
from node.licensing.entitlements import granted_names
from node.licensing.verdict import Snapshot
from node.local.changes import Changes
from protocol.encoding import json_encode

log = logging.getLogger("cascadia.grants")

DIRECTORY = "granted"
CHECK_SECONDS = 3.0
"""Pause between two checks of the files, if nothing changes. A gate that ended removes its file."""
WRITE_SECONDS_MAX = 2.0
"""How long a start or an end waits for the files. The directory is in memory."""
_FRESH = ".new"
_OTHERS_WRITE = 0o022
FORMAT = 1


class GrantsUnusable(NodeError):
    """The directory of the grants cannot be used."""

    exit = Exit.USAGE
    code = "grants_unusable"
    next = "Check the directory and who owns it. Gated units start when the agent can write there."


def grants_of(snapshot: Snapshot) -> dict[str, bytes]:
    """File name -> content, for all that is granted now."""
    if not snapshot.verdict.gate_open:
        return {}
    grants = {LICENCE: _content(None)}
    for name in granted_names(snapshot):
        instance = instance_of(name)
        if instance is not None:
            grants[instance] = _content(name)
    return grants


def _content(name: str | None) -> bytes:
    return json_encode({"format": FORMAT, "entitlement": name}) + b"\n"


class Grants:
    """The files in `directory`. Its parent is the directory of the socket, which the agent makes."""

    def __init__(self, directory: Path, conditions: Conditions, write_seconds: float = WRITE_SECONDS_MAX) -> None:
        self._directory = directory
        self._conditions = conditions
        self._write_seconds = write_seconds
        self._limiter = trio.CapacityLimiter(1)

    async def keep(
        self, snapshot: Callable[[], Snapshot], changes: Changes, check_seconds: float = CHECK_SECONDS
    ) -> None:
        """Keep the files as the snapshot says until cancelled."""
        while True:
            cursor = changes.cursor
            await self.write(grants_of(snapshot()))
            await changes.moved(cursor, check_seconds)

    async def write(self, grants: dict[str, bytes]) -> None:
        """Have exactly these files. A failure is a condition."""
        reason: str | None = f"no answer within {self._write_seconds:g} s"
        with trio.move_on_after(self._write_seconds):
            reason = await trio.to_thread.run_sync(self._failure, grants, abandon_on_cancel=True, limiter=self._limiter)
        if reason is None:
            self._conditions.clear(GrantsUnusable.code)
            return
        unusable = GrantsUnusable(f"cannot write the grants in {self._directory}: {reason}")
        if self._conditions.report_error(unusable):
            log.error("%s. %s", unusable.text, unusable.next)

    def _failure(self, grants: dict[str, bytes]) -> str | None:
        """Have exactly these files. Returns the first failure, or None. A file that fails does not stop the others."""
        try:
            directory = self._open(make=bool(grants))
            if directory is None:
                return None
            try:
                return _replaced(directory, grants)
            finally:
                os.close(directory)
        except OSError as error:
            return error.strerror or str(error)
        except GrantsUnusable as error:
            return error.text

    def _open(self, *, make: bool) -> int | None:
        """The open directory. None if it is missing and is not to be made. Raises OSError, GrantsUnusable."""
        try:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if not make:
                return None
            self._directory.mkdir(0o755, parents=True)
            self._directory.chmod(0o755)  # the umask can have removed bits
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _secure(directory)
        except BaseException:
            os.close(directory)
            raise
        return directory


def _replaced(directory: int, grants: dict[str, bytes]) -> str | None:
    """Remove the other files, then write the missing ones. Returns the first failure. Raises OSError."""
    failures: list[str] = []

    def tried(step: Callable[[], None], name: str) -> None:
        try:
            step()
        except FileNotFoundError:
            pass  # a gate that ended has removed it
        except OSError as error:
            failures.append(f"{name}: {error.strerror}")

    present = set(os.listdir(directory))
    for name in sorted(present - grants.keys()):
        tried(partial(os.unlink, name, dir_fd=directory), name)
    for name in sorted(grants.keys() - present):
        tried(partial(_write_file, directory, name, grants[name]), name)
    return failures[0] if failures else None


def _secure(directory: int) -> None:
    """Take the right to write the directory from other users. Raises GrantsUnusable, OSError."""
    status = os.fstat(directory)
    if status.st_uid not in (0, os.geteuid()):
        raise GrantsUnusable(f"it belongs to user {status.st_uid}")
    if status.st_mode & _OTHERS_WRITE:
        if status.st_uid != os.geteuid():
            raise GrantsUnusable("other users may write it")
        os.fchmod(directory, stat.S_IMODE(status.st_mode) & ~(_OTHERS_WRITE | stat.S_ISVTX))
        log.warning("other users could write the directory of the grants; now they cannot")


def _write_file(directory: int, name: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(_FRESH, flags, 0o644, dir_fd=directory)
    try:
        os.fchmod(descriptor, 0o644)
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    os.rename(_FRESH, name, src_dir_fd=directory, dst_dir_fd=directory)
