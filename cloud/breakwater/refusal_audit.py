"""Use case: refusals are audited. Each leaves a row, but no caller fills the database with them.

A caller gets `ROWS_MAX` rows an hour for each code; what is refused beyond them is counted in memory, and one row at
the hour's end (or when the process stops) says how many there were. It refuses nothing itself.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.audit import AuditEntries
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.storage import StorageError
from cloud.tasks.tally import Counted, Tally

log = logging.getLogger("cascade.breakwater")

ROWS_MAX = 20
PERIOD = timedelta(hours=1)
PAIRS_MAX = 10_000
"""Callers and codes remembered at once; beyond them callers are counted together."""
OTHERS = "others"
FLUSH_SECONDS = 60.0
_ACTION = "request.refuse"


class RefusalAudit:
    """The refusals of one process."""

    def __init__(
        self,
        store: AuditStore,
        entries: AuditEntries[AuditRow],
        now: Callable[[], datetime],
        pairs_max: int = PAIRS_MAX,
    ) -> None:
        self._store = store
        self._entries = entries
        self._now = now
        self._refused: Tally[tuple[str, str]] = Tally(PERIOD, pairs_max)

    async def record(self, caller: str, code: str, what: str, detail: str) -> None:
        """A request was refused. A database that cannot take the row is logged: the refusal stands anyway."""
        now = self._now()
        pair = (caller if self._refused.has_room((caller, code)) else OTHERS, code)
        if (ended := self._refused.end(pair, now)) is not None:
            await self._write_count(pair, ended)
        if self._refused.add(pair, now) <= ROWS_MAX:
            await self._write(caller, what, f"{code}: {detail}")

    async def flush(self, everything: bool = False) -> None:
        """End the hours that are over; at the process's end all of them."""
        for pair, ended in self._refused.end_all(None if everything else self._now()):
            await self._write_count(pair, ended)

    async def _write_count(self, pair: tuple[str, str], ended: Counted) -> None:
        caller, code = pair
        if ended.count > ROWS_MAX:
            left_out, since = ended.count - ROWS_MAX, ended.since.isoformat(timespec="seconds")
            await self._write(caller, "", f"{code}: {left_out} more since {since}")

    async def _write(self, caller: str, what: str, detail: str) -> None:
        entry = self._entries.make(_plain(caller), _ACTION, _plain(what), outcome="refused", detail=_plain(detail))
        try:
            await self._store.add(entry)
        except StorageError as error:
            log.error("cannot write the audit of a refusal", extra={"error": str(error)})


def _plain(text: str) -> str:
    """What a caller may have chosen, printable: a database refuses NUL, a terminal obeys escapes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:1000])
