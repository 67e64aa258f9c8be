"""Background work: delete old events that newer events have replaced.

The latest event of each object stays for ever, because the snapshot reads it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.events.epoch import state_of
from cloud.events.store.outbox import OutboxStore
from protocol.faults import fault_point

PURGE_SECONDS = 5.0
"""Interval of the steps."""
BATCH = 500
"""Events that one transaction goes over."""
BATCHES_MAX = 20
"""Transactions of one step: 2,000 events a second in the long run."""


class Retention:
    """The purge of one process. Replicas take turns."""

    def __init__(
        self,
        store: OutboxStore,
        kept: timedelta,
        now: Callable[[], datetime],
        batch: int = BATCH,
        batches_max: int = BATCHES_MAX,
    ) -> None:
        self._store = store
        self._kept = kept
        self._now = now
        self._batch = batch
        self._batches_max = batches_max
        self.deleted = 0
        """Events that this process has deleted."""

    async def run_once(self) -> None:
        """Go over the events that are older than the retention. Raises StorageError."""
        now = self._now()
        await state_of(self._store, now)
        before = now - self._kept
        for _ in range(self._batches_max):
            if not await self._store.is_older(before):
                return
            with fault_point("events.outbox.purge"):
                self.deleted += await self._store.purge(before, self._batch)
