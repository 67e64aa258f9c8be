"""The audit of refusals: each leaves a row, but no caller fills the database with them.

A caller gets `ROWS_MAX` rows an hour for each code; what is refused beyond them is counted in memory, and one row at
the hour's end (or when the process stops) says how many there were. It refuses nothing itself.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.breakwater.store import AuditEntry, AuditStore
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from protocol.ids import make_id

log = logging.getLogger("cascade.breakwater")

ROWS_MAX = 20
PERIOD = timedelta(hours=1)
PAIRS_MAX = 10_000
"""Callers and codes remembered at once; beyond them callers are counted together."""
OTHERS = "others"
LOOK_SECONDS = 60.0
_ACTION = "request.refuse"


class _Tally:
    """What one caller was refused with one code in the running hour."""

    __slots__ = ("count", "started")

    def __init__(self, started: datetime) -> None:
        self.started = started
        self.count = 0


class Refusals:
    """The refusals of one process."""

    def __init__(self, store: AuditStore, now: Callable[[], datetime], entropy: Callable[[int], bytes]) -> None:
        self._store = store
        self._now = now
        self._entropy = entropy
        self._tallies: dict[tuple[str, str], _Tally] = {}

    async def note(self, caller: str, code: str, what: str, detail: str) -> None:
        """A request was refused. A database that cannot take the row is logged: the refusal stands anyway."""
        now = self._now()
        known = caller if (caller, code) in self._tallies or len(self._tallies) < PAIRS_MAX else OTHERS
        tally = self._tallies.get((known, code))
        if tally is not None and now >= tally.started + PERIOD:
            await self._end(known, code)
            tally = None
        if tally is None:
            tally = self._tallies[known, code] = _Tally(now)
        tally.count += 1
        if tally.count <= ROWS_MAX:
            await self._write(caller, what, f"{code}: {detail}")

    async def flush(self, everything: bool = False) -> None:
        """End the hours that are over; at the process's end all of them."""
        now = self._now()
        for (caller, code), tally in list(self._tallies.items()):
            if everything or now >= tally.started + PERIOD:
                await self._end(caller, code)

    async def keep(self, stopping: Stopping) -> None:
        """The background task."""
        while not await stopping.sleep(LOOK_SECONDS):
            await self.flush()

    async def _end(self, caller: str, code: str) -> None:
        tally = self._tallies.pop((caller, code), None)
        if tally is not None and tally.count > ROWS_MAX:
            left_out, since = tally.count - ROWS_MAX, tally.started.isoformat(timespec="seconds")
            await self._write(caller, "", f"{code}: {left_out} more since {since}")

    async def _write(self, caller: str, what: str, detail: str) -> None:
        now = self._now()
        entry = AuditEntry(
            id=make_id("aud", int(now.timestamp() * 1000), self._entropy(10)),
            at=now,
            caller=_plain(caller),
            action=_ACTION,
            object=_plain(what),
            outcome="refused",
            detail=_plain(detail),
        )
        try:
            await self._store.add(entry)
        except StorageError as error:
            log.error("cannot write the audit of a refusal", extra={"error": str(error)})


def _plain(text: str) -> str:
    """What a caller may have chosen, printable: a database refuses NUL, a terminal obeys escapes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:1000])
