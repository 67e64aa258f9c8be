"""Use case: the snapshot, page by page: the latest event of every object, for a consumer that cannot follow the feed.

The pages are read one after the other, while objects change. The first page has the cursor of a moment before it, so a
consumer that follows the feed from there gets every change that a page did not have.
"""

from collections.abc import Callable
from datetime import datetime

from cloud.contracts.events import SnapshotPage
from cloud.events.cursor import Cursor
from cloud.events.encoding import event_of, fitting
from cloud.events.epoch import state_of
from cloud.events.store.outbox import OutboxStore


class Snapshots:
    """The snapshot of one service."""

    def __init__(self, store: OutboxStore, service: str, now: Callable[[], datetime]) -> None:
        self._store = store
        self._service = service
        self._now = now

    async def page(self, after: str, limit: int) -> SnapshotPage:
        """Return at most `limit` events of the objects after the subject `after`. Empty is the first page."""
        state = await state_of(self._store, self._now())
        head = await self._store.head()
        found = await self._store.latest(after, limit)
        rows = fitting(found)
        is_last = len(rows) == len(found) < limit
        return SnapshotPage(
            state.epoch,
            tuple(event_of(row, self._service, state.epoch, is_placed=False) for row in rows),
            "" if is_last else rows[-1].subject,
            "" if after else str(Cursor(self._service, state.epoch, head)),
        )
