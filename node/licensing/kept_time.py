"""Store: the floor of trusted time of a machine without a hardware floor, in the state directory.

A machine with a floor counter keeps its trusted time in the floor record. Without a counter there is no record. A wall
clock that is set back before each start would then make a lease last for ever. So this file keeps the time that has
passed. It is not signed: a person who edits the file or puts an older one back can set the time back as well (T-97).

Only signed times and measured time are in the file, so a wrong wall clock does not get into it.
"""

import logging
from datetime import timedelta
from pathlib import Path

from node.disk.files import StateFile, encode_state, ensure_private_dir, read_state, write_atomic
from node.errors import StateError
from node.licensing.trusted_time import TimeFloor, low_of

log = logging.getLogger("cascadia.time")

KEEP_EVERY = timedelta(minutes=15)
"""The file is written when so much more time has passed. A start that is shorter loses its time."""


class _Kept(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    time: TimeFloor


class KeptTime:
    """The file of one state directory. No method raises. A caller that saves holds the directory's lock."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / "licence" / "time.json"
        self._last: TimeFloor | None = None

    def load(self) -> TimeFloor | None:
        """The floor that was kept; None without a usable file."""
        try:
            stored = read_state(self._path, _Kept)
        except StateError as error:
            log.warning("%s; trusted time starts from the lease and the wall clock", error.text)
            return None
        return None if stored is None else stored.time

    def save(self, time: TimeFloor) -> None:
        """Replace the file at the first call, and later when `KEEP_EVERY` has passed."""
        if self._last is not None and low_of(time) - low_of(self._last) < KEEP_EVERY:
            return
        try:
            ensure_private_dir(self._state_dir)
            ensure_private_dir(self._path.parent)
            write_atomic(self._path, encode_state(_Kept(time=time)))
        except StateError as error:
            log.warning("%s; after a restart the agent does not know the time that has passed", error.text)
        else:
            self._last = time
