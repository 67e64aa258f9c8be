"""Use case: the change feed. Other services fetch the events after a cursor, by long poll.

The events are in the database; this module stores none. The sequencer wakes the polls that wait in this process.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

from cloud.contracts.events import Changes
from cloud.events.cursor import Cursor, CursorError, parse_cursor
from cloud.events.encoding import EVENTS_MAX, event_of, fitting
from cloud.events.epoch import state_of
from cloud.events.store.outbox import OutboxStore
from cloud.http.problems import Refusal
from cloud.tasks.stopping import Stopping


class ChangeFeed:
    """The feed of one process of a service."""

    def __init__(
        self, store: OutboxStore, service: str, now: Callable[[], datetime], events_max: int = EVENTS_MAX
    ) -> None:
        self._store = store
        self._service = service
        self._now = now
        self._events_max = events_max
        self._changed = asyncio.Event()
        self._closed = False

    async def begin(self) -> None:
        """Begin the epoch of a new database, before the service listens. Raises StorageError."""
        await state_of(self._store, self._now())

    def wake(self) -> None:
        """Wake all waiting polls; there may be further events."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def close_at_stop(self, stopping: Stopping) -> None:
        """Background task: answer all polls, also later ones, at once when the process stops."""
        await stopping.wait()
        self._closed = True
        self.wake()

    async def after(self, cursor: str, wait_seconds: float) -> Changes:
        """Return the events after `cursor`, as soon as there are any. An empty cursor is the beginning of the feed.

        Without events, the answer is empty after `wait_seconds`.

        Raises:
            Refusal: `cursor_foreign` for a text that is no cursor of this service. `cursor_gone` for a cursor of
                another epoch, a position behind the head, or one after which events were purged.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        asked = self._parsed(cursor)
        while True:
            # The event is taken before the rows are read. A change between the two then wakes this poll.
            changed = self._changed
            position = 0 if asked is None else asked.position
            rows = await self._store.after(position, self._events_max)
            # The purge moves its mark in the transaction that deletes, so a gap in the rows shows in a later reading.
            state = await state_of(self._store, self._now())
            head = await self._store.head()
            if position < state.purged or position > head or (asked is not None and asked.epoch != state.epoch):
                raise Refusal("cursor_gone", "read the snapshot, and follow from its cursor")
            left = deadline - loop.time()
            if rows or left <= 0 or self._closed:
                events = tuple(event_of(row, self._service, state.epoch, is_placed=True) for row in fitting(rows))
                last = events[-1].position if events else position
                return Changes(state.epoch, events, str(Cursor(self._service, state.epoch, last)), head)
            try:
                async with asyncio.timeout(left):
                    await changed.wait()
            except TimeoutError:
                continue

    def _parsed(self, cursor: str) -> Cursor | None:
        try:
            return parse_cursor(cursor, self._service) if cursor else None
        except CursorError as error:
            raise Refusal("cursor_foreign", str(error)) from error
