"""Store: the version of the state directory's format, so that an older agent refuses a state that it would misread.

    STATE/version               the version in decimal digits, and a line end
    STATE/version.unreadable    a file that had no version

An agent that owns the state writes its own version once, if the file has a lower one or is missing. Every later start
only reads the file. A file without a version is kept under the other name: it may have been of a newer version. An
agent that knows less refuses to start. docs/upgrade.md has the rule that says when the version rises.
"""

import logging
import re
from contextlib import suppress
from pathlib import Path

from node.disk.files import is_regular, read_bounded, remove_file, rename_file, write_atomic
from node.errors import StateDamaged, StateError
from node.exits import Exit

log = logging.getLogger("cascadia.state")

STATE_VERSION = 1
"""Version of the format that this agent writes. It rises with a change that the release before does not read as meant:
another meaning, a field in a file that refuses unknown fields, or a file that must not be ignored."""
_ASIDE = "version.unreadable"
_BYTES_MAX = 64
_VERSION = re.compile(rb"([1-9][0-9]{0,8})\n")


class StateNewer(StateError):
    """A newer version of Cascadia wrote the state."""

    exit = Exit.USAGE
    code = "state_newer"
    next = (
        "Nothing was changed. Install the version of Cascadia that ran here last, or a newer one. If no newer version ran "
        "here, find out who changed the file `version`, and remove it."
    )


def version_of(state_dir: Path) -> int:
    """The version of a state directory; 0 without a file. Raises StateDamaged if it has no version; StateUnreadable."""
    path = state_dir / "version"
    try:
        match = _VERSION.fullmatch(read_bounded(path, _BYTES_MAX))
    except FileNotFoundError:
        return 0
    if match is None:
        raise StateDamaged(path, "it has no version")
    return int(match[1])


def check_version(state_dir: Path) -> int:
    """The version of a state directory that this agent can use. Raises StateNewer.

    A file that cannot be read, or has no version, gives 0: a disk that fails must not look like a newer state.
    """
    found = 0
    try:
        found = version_of(state_dir)
    except StateDamaged as damage:
        log.warning("%s", damage.text)
    except StateError:
        pass  # the reading of the state reports its disk
    if found > STATE_VERSION:
        text = (
            f"cannot use {state_dir}: its format is version {found}, and this version of Cascadia reads {STATE_VERSION}"
        )
        raise StateNewer(state_dir / "version", text)
    return found


def forget_version(state_dir: Path) -> None:
    """Remove the version, because no state is left: a package and an agent of before may take this machine over.

    A disk that refuses it stops nothing.
    """
    for name in ("version", _ASIDE):
        with suppress(StateError):
            remove_file(state_dir / name)


def keep_version(state_dir: Path) -> None:
    """Check the version, and write this agent's if it is higher. The caller owns the state. Raises StateNewer.

    A disk that refuses the write stops nothing: the next start writes it.
    """
    if check_version(state_dir) == STATE_VERSION:
        return
    path = state_dir / "version"
    try:
        if is_regular(path) and _has_none(state_dir):
            rename_file(path, _ASIDE)
        write_atomic(path, b"%d\n" % STATE_VERSION)
    except StateError as error:
        log.warning("cannot store the version of the state: %s", error.text)


def _has_none(state_dir: Path) -> bool:
    """Whether the file can be read, and has no version."""
    try:
        version_of(state_dir)
    except StateDamaged:
        return True
    except StateError:
        return False
    return False
