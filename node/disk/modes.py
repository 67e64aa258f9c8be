"""Adapter: looks through the state directory for owners and modes that let other users write, and removes the mode.

A file that another user could write has a doubtful content. If the content is signed, the signature decides, and the
mode can be removed. If the content is not signed, the mode stays: it is the only trace of the doubt, and the reader of
the file needs it. `open_to_others` of `node.disk.files` has the rule.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from node.disk import calls
from node.disk.files import OTHERS_WRITE, open_to_others

ENTRIES_MAX = 2000
"""More entries than a state directory has. The bound ends the walk of a wrong directory."""
DEPTH_MAX = 4
SIGNED = ("licence", "tombstones")
"""The parts of the state directory whose files are signed, and are verified at each reading."""
HASHED = "trust"
"""The part whose files are verified by the hashes in its own `current.json`."""

IDENTITY = "identity"
"""The part whose own files are copies of signed statements. The files of a generation are one level below."""


class OpenPath(msgspec.Struct, frozen=True):
    """A path that another user could change. `reason` completes "PATH ..."; `mended` is whether it is now private."""

    path: Path
    reason: str
    mended: bool


def inspect(state_dir: Path, *, mend: bool) -> tuple[OpenPath, ...]:
    """Find every path below the directory, and the directory itself, that another user could change.

    With `mend`, take the write permission of other users from directories and from files whose content is verified
    otherwise, and as root their ownership. A path that cannot be opened is left out, because its reader reports the
    error. Raises nothing.
    """
    return tuple(_walk(state_dir, (), [ENTRIES_MAX], mend=mend))


def _walk(path: Path, parts: tuple[str, ...], left: list[int], *, mend: bool) -> Iterator[OpenPath]:
    left[0] -= 1
    if left[0] < 0 or len(parts) > DEPTH_MAX:
        return
    try:
        descriptor = calls.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    names: list[str] = []
    try:
        status = calls.fstat(descriptor)
        if reason := open_to_others(status):
            yield OpenPath(path, reason, mended=mend and _mend(descriptor, status, parts))
        if stat.S_ISDIR(status.st_mode):
            names = sorted(calls.listdir(descriptor))
    except OSError:
        return
    finally:
        calls.close(descriptor)
    for name in names:
        yield from _walk(path / name, (*parts, name), left, mend=mend)


def _verified_otherwise(parts: tuple[str, ...]) -> bool:
    """Whether the content of the file counts only after it is verified."""
    return (
        parts[0] in SIGNED
        or parts == ("lock",)
        or (parts[0] == HASHED and len(parts) > 2)
        or (parts[0] == IDENTITY and len(parts) == 2)
    )


def _mend(descriptor: int, status: os.stat_result, parts: tuple[str, ...]) -> bool:
    """Take the write permission from other users. Returns whether the path is private now."""
    shared = bool(status.st_mode & stat.S_ISVTX)
    if shared or not (stat.S_ISDIR(status.st_mode) or _verified_otherwise(parts)):
        return False
    try:
        if open_to_others(status).startswith("belongs") and os.geteuid() == 0 and parts:
            calls.fchown(descriptor, 0)
        calls.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~OTHERS_WRITE)
        return not open_to_others(calls.fstat(descriptor))
    except OSError:
        return False
