"""Store: the record of a deactivation, and the removal of the state that follows it.

    STATE/deactivated.json    which node this machine was, what became of its seat, what is left in the TPM

The record is the commit of a deactivation. From its first write on the state directory has no identity, whatever other
files are still there. The next owner of the state removes them and marks the record as complete. The record stays until
the next activation.
"""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from node.disk.files import (
    StateFile,
    encode_state,
    list_directory,
    read_state,
    remove_directory,
    remove_file,
    write_atomic,
)
from node.errors import StateError
from node.hwbind.counter_removal import Left
from protocol.faults import fault_point

Seat = Literal["free", "revoked", "elsewhere", "none", "taken"]
"""`free`: the cloud has signed that the node is released. `revoked`: an operator has revoked the node, and the cloud
frees the seat when the last lease has terminated. `elsewhere`: the node goes on elsewhere: in a later activation, or on
the machine that this directory was copied from. `none`: the activation had not ended. `taken`: the cloud was not asked,
or did not agree."""
NAME = "deactivated.json"
STATE = (
    *("current.json", "activation.json", "renewal.json", "airgap.json"),
    *("identity", "licence", "tombstones", "trust", "set-aside"),
)
"""What a deactivation removes, beside the temporary names of the same files. Another file in the directory is not the
agent's. The record itself and `lock` stay. `cascadia deactivate` removes `version` at its end."""
NOT_YET = "it was not tried yet"


class Deactivated(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of a deactivation.

    The ids are empty if the files of the identity could not be read. `statement` is the signed revocation, empty without
    one. `left` has the counters that are still in the TPM. `complete`: the rest of the state is removed.
    """

    trust_domain: str = ""
    tenant: str = ""
    node: str = ""
    generation: int = 0
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    seat: Seat
    statement: str = ""
    left: tuple[Left, ...] = ()
    complete: bool = False


def load_record(state_dir: Path) -> Deactivated | None:
    """The record; None without one. Raises StateDamaged, StateUnreadable, StateUnsafe."""
    return read_state(state_dir / NAME, Deactivated)


def usable_record(state_dir: Path) -> Deactivated | None:
    """The record, or None if it is missing or cannot be read. A record that cannot be read ends no identity."""
    with suppress(StateError):
        return load_record(state_dir)
    return None


def begin(state_dir: Path, record: Deactivated) -> None:
    """Store the record: from now on this machine has no identity. Raises as `write_atomic`."""
    with fault_point("node.deactivation.begin"):
        write_atomic(state_dir / NAME, encode_state(record))


def remove_rest(state_dir: Path) -> Deactivated | None:
    """Remove the state of a deactivated machine. Returns the record; None if this machine is not deactivated.

    The caller owns the state. Repeating it is harmless. Raises StateError.
    """
    record = usable_record(state_dir)
    if record is None or record.complete:
        return record
    for name in list_directory(state_dir):
        if name.removeprefix(".").removesuffix(".tmp").removesuffix(".old") in STATE:
            with fault_point("node.deactivation.remove"):
                remove_directory(state_dir / name)
    return _complete(state_dir, msgspec.structs.replace(record, complete=True))


def note_left(state_dir: Path, record: Deactivated, left: tuple[Left, ...]) -> Deactivated:
    """Store which counters are still in the TPM. Returns the record. Raises as `write_atomic`."""
    return record if left == record.left else _complete(state_dir, msgspec.structs.replace(record, left=left))


def _complete(state_dir: Path, record: Deactivated) -> Deactivated:
    with fault_point("node.deactivation.complete"):
        write_atomic(state_dir / NAME, encode_state(record))
    return record


def forget(state_dir: Path) -> None:
    """Remove the record, because this machine is activated again. Raises StateUnwritable."""
    if usable_record(state_dir) is not None:
        remove_file(state_dir / NAME)
