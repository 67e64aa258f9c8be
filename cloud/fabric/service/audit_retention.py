"""Use case: delete old entries of refusals and challenges from Fabric's audit, in small steps.

Refusals and unproven challenges are the entries that callers without an identity cause. Entries of decisions stay.
"""

from datetime import timedelta

from cloud.fabric.service.ports import Now
from cloud.fabric.store.audit import AuditStore

REFUSALS_KEPT = timedelta(days=90)
"""How long the audit keeps them, to investigate incidents."""


class AuditRetention:
    """A walk over the audit in order of time. A restart begins again at the oldest entry."""

    def __init__(self, *, now: Now, store: AuditStore) -> None:
        self._now = now
        self._store = store
        self._cursor = ""

    async def step(self) -> None:
        """Look at the next 500 entries that are older than `REFUSALS_KEPT`, and delete refusals and challenges."""
        self._cursor = await self._store.purge(self._cursor, self._now() - REFUSALS_KEPT)
