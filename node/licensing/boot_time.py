"""Store: what this boot knows about the time, beside the agent's socket. It also has the clocks of the machine.

The record survives a restart of the agent, and ends with the boot. Its directory is in memory on a real machine
(`/run`). In another directory the record is harmless too, because it names the kernel's id of the boot.

Only root and the agent's user can write the record, and only a file of theirs is read. An edited record moves no lease
before the floor of the stored record and the powered time since (`node.licensing.trusted_time`). Without a record,
trusted time starts from that floor and the wall clock, as after a boot. So deleting the record gains the time by which
the wall clock is held back, and no more than a reboot does.
"""

import logging

from node.clock import Clock, Seconds, asleep_seconds, monotonic, utc_now
from node.disk.boot import BootRecord
from node.disk.files import StateFile, encode_state, read_state, write_atomic
from node.errors import StateError
from node.licensing.trusted_time import BootTime, Clocks

log = logging.getLogger("cascadia.time")

RECORD = "time.json"


class _Stored(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    boot_id: str
    time: BootTime


class BootTimeRecord:
    """The record of one boot. No method raises. `boot` has the directory and the id of the boot."""

    def __init__(self, boot: BootRecord) -> None:
        self._boot = boot
        self._path = boot.directory / RECORD

    def load(self) -> BootTime | None:
        """What an earlier run of the agent in this boot has left; None without a usable record of this boot."""
        boot_id = self._boot.boot_id()
        try:
            stored = read_state(self._path, _Stored)
        except StateError as error:
            log.warning("%s; the time of this boot is taken from the wall clock", error.text)
            return None
        return stored.time if stored is not None and boot_id and stored.boot_id == boot_id else None

    def save(self, time: BootTime) -> None:
        """Replace the record if it has another time. Without an id of the boot there is no record."""
        boot_id = self._boot.boot_id()
        record = _Stored(boot_id=boot_id, time=time)
        if not boot_id or record == self._stored():
            return
        try:
            write_atomic(self._path, encode_state(record))
        except StateError as error:
            log.warning("%s; after a restart the agent takes the time of this boot from the wall clock", error.text)

    def _stored(self) -> _Stored | None:
        """The record on the disk; None if it is missing or unusable."""
        try:
            return read_state(self._path, _Stored)
        except StateError:
            return None


def machine_clocks(wall: Clock = utc_now, asleep: Seconds = asleep_seconds, awake: Seconds = monotonic) -> Clocks:
    """The clocks of trusted time, made of a wall clock, the time asleep and the time awake since the boot."""
    return Clocks(wall, lambda: awake() + asleep(), awake)
