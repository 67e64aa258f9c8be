"""Store: the verified trust on the node's disk. Each update is a generation, which is written as a whole.

    trust/gen-N/{V.root,timestamp,snapshot,targets}.json          metadata, with every root from the pinned one on
    trust/gen-N/{signing-keys,x509-bundle,services}.json          the three targets
    trust/current.json      number of the current generation, its repository and pin, the SHA-256 of every file

`node.trust.update` verifies a generation before it is written; `node.trust.published` parses it. At a start the hashes
find torn, truncated and edited files, without the 150 ms that an import of the TUF library takes. `current.json` has
the pin and the hashes, so it counts only if no other user could write it (`node.disk.files`). If another user could,
nothing on the disk is a trust anchor, and `cascadia activate FILE` must bring the pin again.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from node.disk.files import (
    StateFile,
    encode_state,
    ensure_private_dir,
    list_directory,
    read_bounded,
    read_state,
    remove_directory,
    write_atomic,
    write_directory,
)
from node.errors import StateDamaged, StateError, StateUnsafe
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.messages.activation import TrustPin
from protocol.signed.trust import TARGETS

FILE_BYTES_MAX = 1024 * 1024
"""Above every bound in `node.trust.update`. The agent never writes a larger file."""

METADATA = ("timestamp.json", "snapshot.json", "targets.json")
MEMORY = Path("/dev/shm")  # noqa: S108 (the directory in it is private and has a random name)
"""A file system in memory that every Linux has (tmpfs)."""
_SCRATCH = "scratch-"
_NEXT = "Run `cascadia activate FILE` with the activation file or a new one; it fetches the published trust again."
_ROOT_NAME = re.compile(r"[1-9][0-9]{0,8}\.root\.json", re.ASCII)
_GENERATION = re.compile(r"gen-([1-9][0-9]{0,15})", re.ASCII)


class Generation(msgspec.Struct, frozen=True):
    """The verified result of one update. `files`: name -> content."""

    repository_url: str
    pin: TrustPin
    files: Mapping[str, bytes]


class Current(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`current.json`: the current generation. `files`: name -> SHA-256 in hex."""

    generation: int
    repository_url: str
    pin: TrustPin
    files: dict[str, str]


def root_name(version: int) -> str:
    """The name of a root's file in a generation."""
    return f"{version}.root.json"


def is_root_name(name: str) -> bool:
    """Whether `root_name` makes this name."""
    return _ROOT_NAME.fullmatch(name) is not None


def read_current(directory: Path) -> tuple[int, Generation]:
    """The number and the files of the current generation. `directory` is the `trust` directory.

    1. `current.json` is not damaged, and no other user could write it.
    2. It names every needed file, and no other.
    3. Its root of the pin's version has the pin's hash.
    4. Each file has the hash in `current.json`.

    Raises StateDamaged; StateUnsafe if another user could write `current.json`; StateError.
    """
    current = read_record(directory)
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


def read_record(directory: Path) -> Current:
    """`current.json`: steps 1 to 3 of `read_current`. Raises as `read_current`."""
    path = directory / "current.json"
    try:
        current = read_state(path, Current, next_step=_NEXT)
    except StateUnsafe as unsafe:
        raise StateUnsafe(
            path, f"{unsafe.reason}. It has the pin, from which all trust starts", next_step=_NEXT
        ) from unsafe
    if current is None:
        raise StateDamaged(path, "it is missing; no published trust is stored here", next_step=_NEXT)
    known = {*METADATA, *TARGETS}
    if not known <= current.files.keys() or not all(name in known or is_root_name(name) for name in current.files):
        raise StateDamaged(path, "it does not name the files of a generation", next_step=_NEXT)
    if current.files.get(root_name(current.pin.version)) != current.pin.sha256:
        raise StateDamaged(path, "its root is not the pinned one", next_step=_NEXT)
    return current


def salvage(directory: Path) -> dict[str, bytes]:
    """The readable metadata of the newest generation, *unverified*. Use it only as the start of an update.

    The update verifies the signatures in each file before it uses the file, and ignores a damaged file. An intact file
    stops the update from accepting older metadata.
    """
    files = {}
    with suppress(StateError):
        home = directory / f"gen-{max(_generations(directory), default=0)}"
        for name in list_directory(home):
            if name in METADATA or is_root_name(name):
                with suppress(StateError, FileNotFoundError):
                    files[name] = read_bounded(home / name, FILE_BYTES_MAX)
    return files


def publish(directory: Path, generation: Generation) -> int:
    """Make `generation` the current one, durably, and return its number. An equal generation is not written again.

    A crash leaves either the earlier generation or the new one current. Raises StateError.
    """
    try:
        before, stored = read_current(directory)
        if stored == generation:
            return before
    except StateError:  # It is replaced.
        before = 0
    # Above every number on the disk: an interrupted update may have left a generation that never became current.
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
    """An empty directory for one update. It is removed at the end of the block. Raises StateError."""
    ensure_private_dir(directory)
    path = directory / f"{_SCRATCH}{secrets.token_hex(8)}"
    ensure_private_dir(path)
    try:
        yield path
    finally:
        with suppress(StateError):
            remove_directory(path)


@contextmanager
def scratch_in_memory() -> Iterator[Path]:
    """As `scratch`, in the memory of the machine: for an update while the state disk cannot be written."""
    path = MEMORY / f"cascadia-{_SCRATCH}{secrets.token_hex(8)}"
    ensure_private_dir(path)
    try:
        yield path
    finally:
        with suppress(StateError):
            remove_directory(path, shared_parent=True)


def _prune(directory: Path, kept: set[int]) -> None:
    """Remove all other generations, and the remains of interrupted updates. What cannot be removed now stays.

    The current generation is kept, and the one before it, so that an administrator can see what changed.
    """
    with suppress(StateError):
        for old in _generations(directory) - kept:
            with fault_point("node.trust.prune"), suppress(StateError):
                remove_directory(directory / f"gen-{old}")
        for name in list_directory(directory):
            if name.startswith(_SCRATCH):
                with suppress(StateError):
                    remove_directory(directory / name)


def _generations(directory: Path) -> set[int]:
    return {int(match[1]) for name in list_directory(directory) if (match := _GENERATION.fullmatch(name))}
