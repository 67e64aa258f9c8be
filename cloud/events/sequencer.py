"""Background task: gives positions to committed events, in every process of a service.

An event has no position while its transaction is open. One short transaction at a time, over all replicas, numbers the
events that are committed then, a batch at a time. So positions have no gaps, and a reader that has seen a position has
missed no lower one. A transaction that stays open delays its own events only. A process that stops in the middle of
numbering delays the others until the database ends its transaction (`cloud.storage.postgres.IDLE_SECONDS`).

Events of one object get their positions in the order of their sequence. An event of a transaction that began after the
commit of another gets the higher position, whichever replica ran them.

The task runs after each commit of this process that has added events, after each `wake`, and at least every second.
"""

import asyncio
import logging
from collections.abc import Callable

from cloud.events.store.outbox import OutboxStore
from cloud.storage import ServiceEngine, StorageError
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point

log = logging.getLogger("cascade.events")

BATCH = 500
"""Events that one transaction numbers."""
POLL_SECONDS = 1.0
"""Longest time until a process sees events of another process whose hint is lost."""
FILE_POLL_SECONDS = 0.25
"""The same on SQLite, where the command line cannot send hints."""
PATIENCE_SECONDS = 5.0
"""How long a process waits while another one numbers events. It is longer than a transaction of a process that hangs."""
LAST_PATIENCE_SECONDS = 0.5
"""The same when this process stops, which has to end within three seconds."""

Advanced = Callable[[int, bool], None]
"""Called with the highest position, and whether this process has committed or numbered the events up to it."""
Looked = Callable[[int], None]
"""Called with the highest position."""


class Sequencer:
    """The numbering of one process."""

    def __init__(
        self, engine: ServiceEngine, store: OutboxStore, poll_seconds: float | None = None, batch: int = BATCH
    ) -> None:
        self._engine = engine
        self._store = store
        self._poll_seconds = poll_seconds or (POLL_SECONDS if engine.sends_hints else FILE_POLL_SECONDS)
        self._batch = batch
        self._woken = asyncio.Event()
        self._advanced: list[Advanced] = []
        self._looked: list[Looked] = []
        self._failing = False
        self.is_running = False
        """Whether `run` was called."""
        self.head = 0
        """The highest position that this process has seen."""

    def wake(self) -> None:
        """Look for events now. A wake without new events costs two short queries."""
        self._woken.set()

    def on_advance(self, call: Advanced) -> None:
        """Call a function whenever the highest position has risen."""
        self._advanced.append(call)

    def on_look(self, call: Looked) -> None:
        """Call a function after each look at the highest position, also if it has not risen."""
        self._looked.append(call)

    async def run(self, stopping: Stopping) -> None:
        """Run until the process stops, and once more then, for the last commits of this process."""
        self.is_running, is_stopping = True, False
        while not is_stopping:
            self._woken.clear()
            await self._try()
            is_stopping = await stopping.first(self._woken, self._poll_seconds)
        await self._try(LAST_PATIENCE_SECONDS)

    async def _try(self, patience: float = PATIENCE_SECONDS) -> None:
        try:
            await self.run_once(patience)
            self._failing = False
        except StorageError as error:
            if not self._failing:  # said once, because the next tries follow every second
                log.warning("cannot give positions to events", extra={"error": str(error)})
            self._failing = True

    async def run_once(self, patience: float = PATIENCE_SECONDS) -> None:
        """Give a position to every committed event, and report the highest position. Raises StorageError."""
        is_more = True
        while is_more:
            placed = 0
            if await self._store.is_waiting():
                with fault_point("events.position.place"):
                    placed = await self._store.place(self._batch, patience)
            is_more = placed == self._batch
            await self._report(placed > 0 or self._engine.commits_in_order)

    async def _report(self, is_ours: bool) -> None:
        head = await self._store.head()
        for look in self._looked:
            look(head)
        if head > self.head:
            self.head = head
            for call in self._advanced:
                call(head, is_ours)
