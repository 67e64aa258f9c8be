"""Background task: add the first event of every object that existed before Breakwater published events.

It runs once in the life of a database, in short steps. If the process ends in between, the next one begins again, and
leaves out the objects that have an event.
"""

import logging
from collections.abc import Awaitable, Callable

from cloud.breakwater.store.events import EventStore
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point

log = logging.getLogger("cascade.breakwater.events")

PAUSE_SECONDS = 0.05
"""Pause between two steps of 50 objects: a million nodes take a quarter of an hour, and requests find the database
free."""
RETRY_SECONDS = 5.0
"""Pause after a failure of the database."""


class EventSeeding:
    """The seeding of one process. Replicas may run it at the same time."""

    def __init__(self, store: EventStore, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._store = store
        self._pause_seconds = pause_seconds

    async def run(self, stopping: Stopping) -> None:
        """Seed, then wait until the process stops."""
        while not stopping.requested:
            try:
                await self._seed(stopping)
            except StorageError as error:
                log.error("cannot add the first events", extra={"error": str(error)})
                await stopping.sleep(RETRY_SECONDS)
            else:
                await stopping.wait()

    async def _seed(self, stopping: Stopping) -> None:
        if await self._store.is_seeded():
            return
        with fault_point("breakwater.events.seed"):
            await self._store.seed_authorities()
        for step in (self._store.seed_service_certificates, self._store.seed_generations):
            if await self._walk(step, stopping):
                return
        with fault_point("breakwater.events.finish"):
            await self._store.set_seeded()

    async def _walk(self, step: Callable[[str], Awaitable[str]], stopping: Stopping) -> bool:
        """Run a step until there are no more objects. Return True if the process stops before the end."""
        cursor = ""
        while True:
            with fault_point("breakwater.events.walk"):
                cursor = await step(cursor)
            if not cursor:
                return False
            if await stopping.sleep(self._pause_seconds):
                return True
