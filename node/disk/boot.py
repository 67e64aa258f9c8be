"""Store: the record that the node key has answered in this boot, beside the agent's socket.

The record survives a restart of the agent, and ends with the boot. The directory of the socket is in memory on a real
machine (`/run`). In another directory the record is harmless too, because the node key has signed the boot's id.
"""

import logging
from pathlib import Path

from node.disk.files import StateFile, encode_state, read_bounded, read_state, remove_file, write_atomic
from node.errors import StateError

log = logging.getLogger("cascadia.hardware")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""A random id that the kernel makes at each boot (random(4))."""
RECORD = "answered.json"


class _Answered(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    boot_id: str
    signature: bytes


class BootRecord:
    """The record in `directory`. No method raises: without the record the agent asks the TPM."""

    def __init__(self, directory: Path, boot_id_path: Path = BOOT_ID) -> None:
        self.directory = directory
        self._path = directory / RECORD
        self._boot_id_path = boot_id_path

    def boot_id(self) -> str:
        """The id of this boot; empty if the system does not say."""
        try:
            return read_bounded(self._boot_id_path, 64).decode("ascii", "replace").strip()
        except (StateError, OSError):
            return ""

    def load(self) -> tuple[str, bytes] | None:
        """Boot id and signature of the record; None if there is no usable record. The caller verifies them."""
        try:
            stored = read_state(self._path, _Answered, signed=True)
        except StateError as error:
            log.warning("%s; the TPM is asked instead", error.text)
            return None
        return None if stored is None else (stored.boot_id, stored.signature)

    def save(self, boot_id: str, signature: bytes) -> None:
        """Replace the record."""
        try:
            write_atomic(self._path, encode_state(_Answered(boot_id=boot_id, signature=signature)))
        except StateError as error:
            log.warning("%s; after a restart the agent must ask the TPM", error.text)

    def clear(self) -> None:
        """Remove the record, because the TPM has answered that the key is not its own."""
        try:
            remove_file(self._path)
        except StateError as error:
            log.warning("%s", error.text)
