"""Store: verified trust on the node's disk, in generations that are published whole or not at all.

    trust/gen-N/{V.root,timestamp,snapshot,targets}.json          metadata, every root from the pinned one on
    trust/gen-N/{signing-keys,x509-bundle,services}.json          the three targets
    trust/current.json      which generation counts, where it came from, under which pin, the SHA-256 of every file

A generation was verified when it was published. The hashes find torn, truncated and edited files without the 150 ms that
the TUF library takes to import. They do not stop somebody who may write here and writes `current.json` too: that is root or
the agent's own user, who can replace the agent as well. `node.trust.update` verifies; `node.trust.published` parses.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from node.disk.files import (
    StateFile,
    encode_state,
    ensure_private_dir,
    read_bounded,
    read_state,
    remove_directory,
    write_atomic,
    write_directory,
)
from node.errors import StateDamaged, StateError
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGETS

FILE_BYTES_MAX = 1024 * 1024
"""Above every bound in `node.trust.update`; a larger file was not written here."""

METADATA = ("timestamp.json", "snapshot.json", "targets.json")
_SCRATCH = "scratch-"
_NEXT = "Run `cascadia activate FILE` with the activation file, or a new one: it fetches the trust anew."
_ROOT_NAME = re.compile(r"[1-9][0-9]{0,8}\.root\.json", re.ASCII)
_GENERATION = re.compile(r"gen-([1-9][0-9]{0,15})", re.ASCII)


class Generation(msgspec.Struct, frozen=True):
    """All that one update verified. `files`: name -> content."""

    repository_url: str
    pin: TrustPin
    files: Mapping[str, bytes]


class Current(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pointer. `files`: name -> SHA-256, hex."""

    generation: int
    repository_url: str
    pin: TrustPin
    files: dict[str, str]


def root_name(version: int) -> str:
    """What a generation calls its root of that version."""
    return f"{version}.root.json"


def is_root_name(name: str) -> bool:
    return _ROOT_NAME.fullmatch(name) is not None


def read_current(directory: Path) -> tuple[int, Generation]:
    """The published generation and its number. `directory` is the `trust` directory. Raises StateDamaged, StateError.

    1 the pointer is whole; 2 it names every file that is needed, and no other; 3 its root is the pinned one; 4 each
    file is the one that was published.
    """
    path = directory / "current.json"
    current = read_state(path, Current, next_step=_NEXT)
    if current is None:
        raise StateDamaged(path, "it is missing: no trust was published here", next_step=_NEXT)
    known = {*METADATA, *TARGETS}
    if not known <= current.files.keys() or not all(name in known or is_root_name(name) for name in current.files):
        raise StateDamaged(path, "it does not name the files of a generation", next_step=_NEXT)
    if current.files.get(root_name(current.pin.version)) != current.pin.sha256:
        raise StateDamaged(path, "its root is not the pinned one", next_step=_NEXT)
    home = directory / f"gen-{current.generation}"
    files = {}
    for name, digest in current.files.items():
        try:
            files[name] = read_bounded(home / name, FILE_BYTES_MAX)
        except FileNotFoundError as error:
            raise StateDamaged(home / name, "it is missing", next_step=_NEXT) from error
        if sha256_hex(files[name]) != digest:
            raise StateDamaged(home / name, "it is torn or was edited", next_step=_NEXT)
    return current.generation, Generation(current.repository_url, current.pin, files)


def salvage(directory: Path) -> dict[str, bytes]:
    """Whatever metadata the newest generation still has, *unverified*: only for an update to start from.

    Each file bears its signatures, which the update checks before it counts; so what is damaged is as good as
    absent, and what is not keeps older metadata from being accepted.
    """
    home = directory / f"gen-{max(_generations(directory), default=0)}"
    files = {}
    for path in home.glob("*.json"):
        if path.name in METADATA or is_root_name(path.name):
            with suppress(StateError, FileNotFoundError):
                files[path.name] = read_bounded(path, FILE_BYTES_MAX)
    return files


def publish(directory: Path, generation: Generation) -> int:
    """Make `generation` the one that counts, durably, and return its number. One that is equal is not written again.

    A crash at any point leaves the generation before it published. Raises StateError (DiskFull and others).
    """
    try:
        before, stored = read_current(directory)
        if stored == generation:
            return before
    except StateDamaged:
        before = 0
    # Past every number that is there: an interrupted update may have left a generation that was never published.
    number = max(_generations(directory), default=0) + 1
    current = Current(
        generation=number,
        repository_url=generation.repository_url,
        pin=generation.pin,
        files={name: sha256_hex(content) for name, content in sorted(generation.files.items())},
    )
    with fault_point("node.trust.write"):
        write_directory(directory / f"gen-{number}", generation.files)
    with fault_point("node.trust.publish"):
        write_atomic(directory / "current.json", encode_state(current))
    _prune(directory, {number, before})
    return number


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """An empty directory for one update, removed after it. Raises StateError, OSError."""
    ensure_private_dir(directory)
    with TemporaryDirectory(prefix=_SCRATCH, dir=directory, ignore_cleanup_errors=True) as path:
        yield Path(path)


def _prune(directory: Path, kept: set[int]) -> None:
    """Remove all other generations and the remains of interrupted updates.

    Two are kept: the current one, and the one before it for whoever has to find out what changed.
    """
    for old in _generations(directory) - kept:
        with fault_point("node.trust.prune"):
            remove_directory(directory / f"gen-{old}")
    for left in directory.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


def _generations(directory: Path) -> set[int]:
    if not directory.is_dir():
        return set()
    return {int(match[1]) for path in directory.iterdir() if (match := _GENERATION.fullmatch(path.name))}
