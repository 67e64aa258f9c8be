"""What the issuer does without being asked: follows the authorities, sweeps what crashes left, forgets sessions that
ended long ago, reads its own numbers.

Each chore outlives a database or key that is away: it is logged and done the next time.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from cloud.breakwater.authorities import SYSTEM
from cloud.breakwater.errors import IssuerError
from cloud.breakwater.parts import Assembly
from cloud.breakwater.store import AuditEntry
from cloud.breakwater.store.metrics_reads import MeasureStore
from cloud.storage import StorageError
from cloud.tasks.stopping import BackgroundTask, Stopping
from protocol.ids import make_id

log = logging.getLogger("cascade.breakwater")

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


def every(seconds: float, name: str, chore: Callable[[], Awaitable[object]]) -> BackgroundTask:
    """A background task that does `chore` again and again."""

    async def repeat(stopping: Stopping) -> None:
        while not await stopping.sleep(seconds):
            try:
                await chore()
            except (StorageError, IssuerError) as error:
                log.error("a chore failed", extra={"chore": name, "error": str(error)})

    repeat.__name__ = name
    return repeat


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
            every(REFRESH_SECONDS, "authorities", self.refresh),
            every(SWEEP_SECONDS, "sweep", self._assembly.issuing.sweep),
            every(USAGE_SECONDS, "usage", self.tell_usage),
            every(PURGE_SECONDS, "purge", self.purge),
        )

    async def tell_usage(self) -> None:
        """A line of the audit for each CA key that was used since the last one: how often."""
        for authority, uses in self._assembly.signer.usage().items():
            new, now = uses - self._told_usage.get(authority, 0), self._now()
            if not new:
                continue
            await self._assembly.store.audit.add(_entry(now, "authority.use", authority, f"{new} signatures"))
            self._told_usage[authority] = uses

    async def purge(self) -> None:
        """One step of a walk over all records; a walk that deleted something leaves a line of the audit at its end."""
        now = self._now()
        step = await self._assembly.store.purging.step(self._purge_cursor, now - SESSIONS_KEPT)
        self._purge_cursor = step.cursor
        self._purged += step.deleted
        if not step.cursor and self._purged:
            detail = f"{self._purged} that ended before {(now - SESSIONS_KEPT).isoformat(timespec='seconds')}"
            await self._assembly.store.audit.add(_entry(now, "record.purge", "sessions and responders", detail))
            self._purged = 0

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


def _entry(now: datetime, action: str, what: str, detail: str) -> AuditEntry:
    unique = make_id("aud", int(now.timestamp() * 1000), os.urandom(10))
    return AuditEntry(id=unique, at=now, caller=SYSTEM, action=action, object=what, detail=detail)
