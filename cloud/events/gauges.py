"""Metrics of the events of a service, read at each scrape."""

from collections.abc import Callable
from datetime import datetime

from cloud.events.retention import Retention
from cloud.events.store.outbox import OutboxStore
from cloud.http.metrics import Metrics
from cloud.storage import StorageError


class EventGauges:
    """The gauges of one process. After `attach`, the registry reads them at each scrape."""

    def __init__(self, store: OutboxStore, retention: Retention, now: Callable[[], datetime]) -> None:
        self._store = store
        self._retention = retention
        self._now = now

    def attach(self, metrics: Metrics) -> None:
        """Register the gauges. Call it once."""
        self._head = metrics.gauge("events_head", "Highest position in the feed of events")
        self._waiting = metrics.gauge(
            "events_waiting_seconds", "Age of the oldest committed event without a position, 0 without one"
        )
        self._purged = metrics.gauge("events_purged", "Position up to which old events were purged")
        self._deleted = metrics.gauge("events_deleted", "Old events that this process has deleted")
        metrics.before_reading(self._read)

    async def _read(self) -> None:
        try:
            since = await self._store.waiting_since()
            self._waiting.set(0.0 if since is None else max(0.0, (self._now() - since).total_seconds()))
            self._head.set(await self._store.head())
            state = await self._store.state()
        except StorageError:
            return  # the readiness of the service names the database
        self._purged.set(0 if state is None else state.purged)
        self._deleted.set(self._retention.deleted)
