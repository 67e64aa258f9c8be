"""Use case: audit refusals, with a limit for each caller, so that no caller can fill the database.

Each caller gets `ROWS_MAX` rows an hour for each problem code. Further refusals are counted in memory. At the end of
the hour, or when the process stops, one row has their number. This module refuses nothing itself.
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
"""The number of pairs of caller and code that are counted. Further callers are counted together as `OTHERS`."""
OTHERS = "others"
FLUSH_SECONDS = 60.0
_ACTION = "request.refuse"


class RefusalAudit:
    """Audits the refusals of one process."""

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
        """Audit a refused request, or count it. A StorageError is logged, because the request is refused anyway."""
        now = self._now()
        pair = (caller if self._refused.has_room((caller, code)) else OTHERS, code)
        if (ended := self._refused.end(pair, now)) is not None:
            await self._write_count(pair, ended)
        if self._refused.add(pair, now) <= ROWS_MAX:
            await self._write(caller, what, f"{code}: {detail}")

    async def flush(self, everything: bool = False) -> None:
        """Write the counts of all hours that are over; with `everything`, of the current hours too."""
        for pair, ended in self._refused.end_all(None if everything else self._now()):
            await self._write_count(pair, ended)

    async def _write_count(self, pair: tuple[str, str], ended: Counted) -> None:
        caller, code = pair
        if ended.count > ROWS_MAX:
            left_out, since = ended.count - ROWS_MAX, ended.since.isoformat(timespec="seconds")
            # The row counts other requests than the current one.
            await self._write(caller, "", f"{code}: {left_out} more since {since}", request="")

    async def _write(self, caller: str, what: str, detail: str, **columns: str) -> None:
        entry = self._entries.make(
            _plain(caller), _ACTION, _plain(what), outcome="refused", detail=_plain(detail), **columns
        )
        try:
            await self._store.add(entry)
        except StorageError as error:
            log.error("cannot write the audit of a refusal", extra={"error": str(error)})


def _plain(text: str) -> str:
    """Make a caller's text printable: a database refuses NUL, and a terminal executes escape sequences."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:1000])
