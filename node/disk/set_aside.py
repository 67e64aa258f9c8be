"""Store: what a recovery sets aside. The files of hardware that is gone are copied, and never read again by an agent.

STATE/set-aside/g-N/    the files of identity/g-N, and both copies of the floor record
"""

from contextlib import suppress
from pathlib import Path

from node.disk.files import ensure_private_dir, list_directory, read_bounded, write_directory
from node.errors import StateError
from protocol.faults import fault_point


def set_aside(state_dir: Path, generation: int) -> Path:
    """Copy the keys of a generation and the floor record. Repeating it is harmless. Returns the directory of the copy.

    A file that cannot be read is left out: it is damaged, and stays where it is. Raises DiskFull, StateUnwritable,
    StateUnsafe.
    """
    identity = state_dir / "identity"
    paths = {"floors.json": state_dir / "licence" / "floors.json", "floors-copy.json": identity / "floors.json"}
    with suppress(StateError):
        paths |= {name: identity / f"g-{generation}" / name for name in list_directory(identity / f"g-{generation}")}
    files: dict[str, bytes] = {}
    for name, path in paths.items():
        with suppress(StateError, FileNotFoundError):
            files[name] = read_bounded(path)
    kept = state_dir / "set-aside" / f"g-{generation}"
    ensure_private_dir(kept.parent)
    with fault_point("node.recovery.aside"):
        write_directory(kept, files)
    return kept
