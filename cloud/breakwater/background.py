"""Background tasks: read changed authorities, orphan stale records, audit CA key use, delete old records, check CRLs.

When the database or a key is not available, a task logs the error and runs again at its next interval.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.audit import SYSTEM
from cloud.breakwater.errors import IssuerError
from cloud.breakwater.parts import Parts
from cloud.breakwater.revocation.root_crl_watch import CHECK_SECONDS
from cloud.storage import StorageError
from cloud.tasks.periodic import every
from cloud.tasks.stopping import BackgroundTask

TOLERATED = (StorageError, IssuerError)
"""Errors that a task logs before it continues."""
REFRESH_SECONDS = 1.0
"""Replicas notice an activation or taint by another replica within this time. No event of a replica reaches another."""
SWEEP_SECONDS = 30.0
USAGE_SECONDS = 3600.0
"""Interval of the audit rows about CA key use. They reveal a key that signs more often than there are records."""
PURGE_SECONDS = 5.0
"""Interval between two steps of the walk over all records: 100 records a second, eight million a day."""
RECORDS_KEPT = timedelta(days=30)
"""How long records of sessions, responders and replaced device certificates stay after the end of their certificates, to
investigate incidents. After that, only the audit's numbers of uses of each CA key remain (`authority.use`)."""

REFUSALS_KEPT = timedelta(days=90)
"""How long the audit keeps entries of refused requests. Entries of decisions stay for ever."""


class Background:
    """The background work on the records of one issuer process."""

    def __init__(self, parts: Parts, now: Callable[[], datetime]) -> None:
        self._parts = parts
        self._now = now
        self._reported_uses: dict[str, int] = {}
        self._purge_cursor = ""
        self._purged = 0
        self._audit_cursor = ""

    def tasks(self) -> tuple[BackgroundTask, ...]:
        """Return the tasks for the process to run."""
        return (
            every(REFRESH_SECONDS, "authorities", self.refresh_authorities, TOLERATED),
            every(SWEEP_SECONDS, "sweep", self._parts.executor.sweep, TOLERATED),
            every(USAGE_SECONDS, "usage", self.record_key_use, TOLERATED),
            every(PURGE_SECONDS, "purge", self.purge, TOLERATED),
            every(CHECK_SECONDS, "root CRLs", self._parts.root_crl_watch.check, TOLERATED),
        )

    async def refresh_authorities(self) -> None:
        """Read changed authorities. The metric `database_up` says whether the database answered."""
        database_up = self._parts.metrics.database_up
        try:
            await self._parts.authorities.refresh()
        except StorageError:
            database_up.set(0)
            raise
        database_up.set(1)

    async def record_key_use(self) -> None:
        """Write an audit row for each CA key that was used since its last row, with the number of uses."""
        for authority, uses in self._parts.signer.usage().items():
            new = uses - self._reported_uses.get(authority, 0)
            if not new:
                continue
            await self._audit("authority.use", authority, f"{new} signatures")
            self._reported_uses[authority] = uses

    async def purge(self) -> None:
        """Run one step of each walk: over the records, and over the audit's refusals.

        A walk that deleted records ends with an audit row.
        """
        refusals_before = self._now() - REFUSALS_KEPT
        self._audit_cursor = await self._parts.stores.audit.purge(self._audit_cursor, refusals_before)
        before = self._now() - RECORDS_KEPT
        step = await self._parts.stores.retention.step(self._purge_cursor, before)
        self._purge_cursor = step.cursor
        self._purged += step.deleted
        if not step.cursor and self._purged:
            detail = f"{self._purged} that ended before {before.isoformat(timespec='seconds')}"
            await self._audit("record.purge", "sessions, responders, replaced devices", detail)
            self._purged = 0

    async def _audit(self, action: str, what: str, detail: str) -> None:
        await self._parts.stores.audit.add(self._parts.entries.make(SYSTEM, action, what, detail=detail))
