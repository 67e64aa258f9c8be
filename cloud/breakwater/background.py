"""What the issuer does without being asked: follows the authorities, sweeps what crashes left, forgets sessions that
ended long ago, reads its own numbers.

Each chore outlives a database or key that is away: it is logged and done the next time.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.audit import SYSTEM
from cloud.breakwater.errors import IssuerError
from cloud.breakwater.parts import Assembly
from cloud.breakwater.store.metrics_reads import MeasureStore
from cloud.storage import StorageError
from cloud.tasks.periodic import every
from cloud.tasks.stopping import BackgroundTask

OUTLIVED = (StorageError, IssuerError)
"""A database or a key that is away: the work is done the next time."""
REFRESH_SECONDS = 1.0
"""An activation or a taint at one replica is seen by the others within this."""
SWEEP_SECONDS = 30.0
USAGE_SECONDS = 3600.0
"""How often the audit is told how much each CA key was used; a key that is used without a record shows in it."""
PURGE_SECONDS = 5.0
"""Between two steps of the walk over all records: 100 records a second, eight million a day."""
SESSIONS_KEPT = timedelta(days=30)
"""After the end of a certificate that lived for hours: time to look into an incident. What is left then is how often
each CA key was used (`authority.use`)."""


class Chores:
    """The chores of one issuer."""

    def __init__(
        self, assembly: Assembly, measures: MeasureStore, now: Callable[[], datetime], crl_period: timedelta
    ) -> None:
        self._assembly = assembly
        self._measures = measures
        self._now = now
        self._crl_period = crl_period
        self._crl_ages: dict[str, float] = {}
        self._told_usage: dict[str, int] = {}
        self._purge_cursor = ""
        self._purged = 0
        metrics = assembly.metrics
        metrics.watch(assembly.signer.usage, self._until_end, lambda: self._crl_ages)
        metrics.registry.before_reading(self._read)

    async def refresh(self) -> None:
        """Follow the authorities; whether the database answered is a number of its own."""
        try:
            await self._assembly.authorities.refresh()
        except StorageError:
            self._assembly.metrics.database_up.set(0)
            raise
        self._assembly.metrics.database_up.set(1)

    def tasks(self) -> tuple[BackgroundTask, ...]:
        """For the unit."""
        return (
            every(REFRESH_SECONDS, "authorities", self.refresh, OUTLIVED),
            every(SWEEP_SECONDS, "sweep", self._assembly.issuing.sweep, OUTLIVED),
            every(USAGE_SECONDS, "usage", self.tell_usage, OUTLIVED),
            every(PURGE_SECONDS, "purge", self.purge, OUTLIVED),
        )

    async def tell_usage(self) -> None:
        """A line of the audit for each CA key that was used since the last one: how often."""
        for authority, uses in self._assembly.signer.usage().items():
            new = uses - self._told_usage.get(authority, 0)
            if not new:
                continue
            await self._write("authority.use", authority, f"{new} signatures")
            self._told_usage[authority] = uses

    async def purge(self) -> None:
        """One step of a walk over all records; a walk that deleted something leaves a line of the audit at its end."""
        now = self._now()
        step = await self._assembly.store.purging.step(self._purge_cursor, now - SESSIONS_KEPT)
        self._purge_cursor = step.cursor
        self._purged += step.deleted
        if not step.cursor and self._purged:
            detail = f"{self._purged} that ended before {(now - SESSIONS_KEPT).isoformat(timespec='seconds')}"
            await self._write("record.purge", "sessions and responders", detail)
            self._purged = 0

    async def _write(self, action: str, what: str, detail: str) -> None:
        entry = self._assembly.entries.make(SYSTEM, action, what, detail=detail)
        await self._assembly.store.audit.add(entry)

    def _until_end(self) -> dict[str, float]:
        now, authorities = self._now(), self._assembly.authorities
        active = [row.id for row in authorities.rows() if row.state == "active"]
        ends = [(each, authorities.find(each)) for each in active]
        return {each: (issuer.not_after - now).total_seconds() for each, issuer in ends if issuer is not None}

    async def _read(self) -> None:
        metrics, now = self._assembly.metrics, self._now()
        try:
            for state, count in (await self._measures.states()).items():
                metrics.records.set(count, state)
            for row in self._assembly.authorities.rows():
                due = await self._measures.next_publication(row.id)
                if due is not None:
                    self._crl_ages[row.id] = (now - due + self._crl_period).total_seconds()
        except StorageError:
            metrics.database_up.set(0)
            return
        metrics.database_up.set(1)
