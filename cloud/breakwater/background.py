"""Background tasks of the issuer's records: follow the authorities, sweep what crashes left, write down how much each CA
key was used, forget sessions that ended long ago.

Each outlives a database or a key that is away: that is logged, and the work is done the next time.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.audit import SYSTEM
from cloud.breakwater.errors import IssuerError
from cloud.breakwater.parts import Parts
from cloud.storage import StorageError
from cloud.tasks.periodic import every
from cloud.tasks.stopping import BackgroundTask

OUTLIVED = (StorageError, IssuerError)
REFRESH_SECONDS = 1.0
"""An activation or a taint at one replica is seen by the others within this."""
SWEEP_SECONDS = 30.0
USAGE_SECONDS = 3600.0
"""How often the use of each CA key is written into the audit; a key that is used without a record shows in it."""
PURGE_SECONDS = 5.0
"""Between two steps of the walk over all records: 100 records a second, eight million a day."""
SESSIONS_KEPT = timedelta(days=30)
"""After the end of a certificate that lived for hours: time to look into an incident. What is left then is how often
each CA key was used (`authority.use`)."""


class Background:
    """The background work on the records of one issuer."""

    def __init__(self, parts: Parts, now: Callable[[], datetime]) -> None:
        self._parts = parts
        self._now = now
        self._reported_uses: dict[str, int] = {}
        self._purge_cursor = ""
        self._purged = 0

    def tasks(self) -> tuple[BackgroundTask, ...]:
        """For the process."""
        return (
            every(REFRESH_SECONDS, "authorities", self.refresh_authorities, OUTLIVED),
            every(SWEEP_SECONDS, "sweep", self._parts.executor.sweep, OUTLIVED),
            every(USAGE_SECONDS, "usage", self.record_key_use, OUTLIVED),
            every(PURGE_SECONDS, "purge", self.purge, OUTLIVED),
        )

    async def refresh_authorities(self) -> None:
        """Follow the authorities; whether the database answered is a number of its own."""
        database_up = self._parts.metrics.database_up
        try:
            await self._parts.authorities.refresh()
        except StorageError:
            database_up.set(0)
            raise
        database_up.set(1)

    async def record_key_use(self) -> None:
        """An audit row for each CA key that was used since its last row: how often."""
        for authority, uses in self._parts.signer.usage().items():
            new = uses - self._reported_uses.get(authority, 0)
            if not new:
                continue
            await self._audit("authority.use", authority, f"{new} signatures")
            self._reported_uses[authority] = uses

    async def purge(self) -> None:
        """One step of a walk over all records; a walk that deleted something leaves an audit row at its end."""
        before = self._now() - SESSIONS_KEPT
        step = await self._parts.stores.retention.step(self._purge_cursor, before)
        self._purge_cursor = step.cursor
        self._purged += step.deleted
        if not step.cursor and self._purged:
            detail = f"{self._purged} that ended before {before.isoformat(timespec='seconds')}"
            await self._audit("record.purge", "sessions and responders", detail)
            self._purged = 0

    async def _audit(self, action: str, what: str, detail: str) -> None:
        await self._parts.stores.audit.add(self._parts.entries.make(SYSTEM, action, what, detail=detail))
