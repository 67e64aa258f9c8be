"""Use case: limit how many session certificates a node gets, because each leaves a record for a month.

The count is in memory. Its witness are the records: they are read at the first request of a node after a start, and at
each request of a node that has used half of its bucket. So neither a restart nor another replica gives a node more.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from cloud.breakwater.errors import SessionsTooOften
from cloud.contracts.breakwater import SESSIONS_PER_NODE
from cloud.tasks.buckets import Buckets, Level, admit

_WINDOW = timedelta(seconds=SESSIONS_PER_NODE.burst * SESSIONS_PER_NODE.seconds)
"""The time after which an empty bucket is full again. Older records have no effect."""


class SessionRecords(Protocol):
    """Port: the records of issued sessions. `cloud.breakwater.store.issuance.IssuanceStore` is the adapter."""

    async def sessions_of(self, node: str, since: datetime, limit: int) -> list[datetime]:
        """Return the times of the node's newest sessions after `since`, the oldest first."""


class SessionLimits:
    """Counts the sessions of each node. `factor` multiplies the limit."""

    def __init__(self, records: SessionRecords, now: Callable[[], datetime], factor: float = 1.0) -> None:
        self._rate = SESSIONS_PER_NODE.times(factor)
        """A node cannot have more records in `_WINDOW` than twice the burst of this rate."""
        self._records = records
        self._now = now
        self._buckets = Buckets()

    async def require(self, node: str) -> None:
        """Take a permit for a session. Raises SessionsTooOften, StorageError."""
        at = self._now()
        now, rate = at.timestamp(), self._rate
        used = self._buckets.used(node, rate, now)
        if node not in self._buckets or used >= rate.burst / 2:
            recorded = await self._records.sessions_of(node, at - _WINDOW, 2 * rate.burst)
            self._buckets.catch_up(node, rate, (each.timestamp() for each in recorded), now)
        wait = admit([Level(self._buckets, node, rate)], now)
        if wait > 0:
            raise SessionsTooOften(timedelta(seconds=wait))
