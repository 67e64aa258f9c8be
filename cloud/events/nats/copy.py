"""Background task: copies the events that have a tenant to the stream of NATS, in the order of their positions.

One process of a service copies at a time; a row says which. The row also says how far the copy is. It is stored after
the server has acknowledged the events, so an event may be copied twice, and is never left out. The server drops the
second one for two minutes; after that, consumers see it by its id.

A server that is slow, full, partitioned or gone delays the copy alone. The events stay in the outbox. A stream that is
new, because its server has lost its disk, gets every event of the outbox again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from cloud.events.nats.cloud_event import message_of
from cloud.events.nats.connection import Access, Link, Message, NatsRefused, NatsUnavailable, connected
from cloud.events.nats.settings import NatsSettings
from cloud.events.nats.stream import declare_consumers, declare_stream
from cloud.events.store.copy import CopyRow, CopyStore
from cloud.events.store.outbox import EventRow, OutboxStore
from cloud.storage import StorageError
from cloud.tasks.back_off import BackOff
from cloud.tasks.bounded_log import BoundedLog
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point

log = logging.getLogger("cascade.events.copy")

BATCH = 64
"""Events of one batch, at most 1.3 MB."""
HOLD = timedelta(seconds=30)
"""How long a process that has died keeps the others from copying. A batch takes at most five seconds."""
RENEW = timedelta(seconds=15)
IDLE_SECONDS = 2.0
"""Longest time until a process sees that the connection has ended, or that another process has stopped copying."""
BACK_OFF_SECONDS_FIRST = 0.5
BACK_OFF_SECONDS_MAX = 10.0
CONSUMERS_SECONDS = 30.0
"""Consumers in the server are compared with those of the database at least this often."""

Consumers = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns the consumers that may read: consumer to tenant."""


class LostRow(Exception):
    """Another process copies now."""


class EventCopy:
    """The copy of one process."""

    def __init__(
        self,
        *,
        store: CopyStore,
        outbox: OutboxStore,
        access: Access,
        settings: NatsSettings,
        now: Callable[[], datetime],
        owner: str,
        consumers: Consumers | None = None,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._access = access
        self._settings = settings
        self._now = now
        self._owner = owner
        self._consumers = consumers
        self._woken = asyncio.Event()
        self._back_off = BackOff(BACK_OFF_SECONDS_FIRST, BACK_OFF_SECONDS_MAX)
        self._said = BoundedLog(log, now)
        self._consumers_due = 0.0
        self._held_until = now()
        self.trouble = ""
        """Why the copy of this process does not work now; empty if it works, or if another process copies."""

    def wake(self) -> None:
        """Look for events now."""
        self._woken.set()

    def consumers_changed(self) -> None:
        """Compare the consumers in the server with those of the database now."""
        self._consumers_due = 0.0
        self._woken.set()

    async def run(self, stopping: Stopping) -> None:
        """Copy until the process stops."""
        while not stopping.requested:
            pause = IDLE_SECONDS
            try:
                await self._run_once(stopping)
                self.trouble = ""
            except (NatsUnavailable, NatsRefused, StorageError) as error:
                self.trouble = str(error)
                self._said.warn(type(error).__name__, "cannot copy events to NATS", error=str(error))
                pause = self._back_off.failed(asyncio.get_running_loop().time())
            except LostRow:
                pass
            if await stopping.sleep(pause):
                return

    async def _run_once(self, stopping: Stopping) -> None:
        """Copy until the process stops or the row is lost. Raises NatsUnavailable, NatsRefused, StorageError, LostRow."""
        row = await self._hold()
        if row is None:
            return
        try:
            async with connected(self._access) as link:
                made = await declare_stream(link, self._settings)
                if made != row.stream:
                    row = await self._advance(msgspec.structs.replace(row, stream=made, position=0))
                self._consumers_due = 0.0
                await self._serve(link, row, stopping)
        finally:
            with fault_point("nats.copy.release"):
                await self._store.release(self._owner, self._now())

    async def _hold(self) -> CopyRow | None:
        now = self._now()
        if await self._store.find() is None:
            with fault_point("nats.copy.begin"):
                await self._store.begin(now)
        self._held_until = now + HOLD
        with fault_point("nats.copy.hold"):
            return await self._store.hold(self._owner, now, self._held_until)

    async def _serve(self, link: Link, row: CopyRow, stopping: Stopping) -> None:
        while not stopping.requested:
            self._woken.clear()
            await self._declare_consumers(link)
            row, is_more = await self._copy(link, row)
            row, is_more_again = await self._replay(link, row)
            self._back_off.worked()
            self.trouble = ""
            if is_more or is_more_again:
                continue
            await stopping.first(self._woken, IDLE_SECONDS)
            if link.ended.is_set():
                raise NatsUnavailable("the connection has ended")
            row = await self._current(row)

    async def _current(self, row: CopyRow) -> CopyRow:
        """Return the stored row, which may have an order to replay. Hold it for longer if that is due."""
        if self._now() + RENEW < self._held_until:
            return await self._store.find() or row
        held = await self._hold()
        if held is None:
            raise LostRow
        return held

    async def _declare_consumers(self, link: Link) -> None:
        now = asyncio.get_running_loop().time()
        if self._consumers is not None and now >= self._consumers_due:
            self._consumers_due = now + CONSUMERS_SECONDS
            await declare_consumers(link, await self._consumers())

    async def _copy(self, link: Link, row: CopyRow) -> tuple[CopyRow, bool]:
        """Copy the next events. Returns the new row, and whether there may be more."""
        events = await self._outbox.after(row.position, BATCH)
        if not events:
            return row, False
        reached = await self._send(link, events, 0)
        if reached > row.position:
            row = await self._advance(msgspec.structs.replace(row, position=reached))
        return row, True

    async def _replay(self, link: Link, row: CopyRow) -> tuple[CopyRow, bool]:
        """Copy the next events of an order to replay. Returns the new row, and whether there may be more."""
        if not row.replay_next:
            return row, False
        events = [
            event
            for event in await self._outbox.after(row.replay_next - 1, BATCH)
            if (event.position or 0) <= row.replay_last
        ]
        reached = await self._send(link, events, row.replay) if events else row.replay_last
        following = reached + 1 if events and reached < row.replay_last else 0
        return await self._advance(msgspec.structs.replace(row, replay_next=following)), True

    async def _send(self, link: Link, events: list[EventRow], replay: int) -> int:
        """Send events. Returns the highest position up to which the server has all of them."""
        state = await self._outbox.state()
        epoch = 0 if state is None else state.epoch
        made = [(event.position or 0, message_of(event, self._access.service, epoch, replay)) for event in events]
        messages: list[Message] = [message for _, message in made if message is not None]
        left = await link.store(messages)
        reached = 0
        for position, message in made:
            if message is not None:
                if not left:
                    break
                left -= 1
            reached = position
        return reached

    async def _advance(self, row: CopyRow) -> CopyRow:
        self._held_until = self._now() + HOLD
        with fault_point("nats.copy.advance"):
            stored = await self._store.advance(self._owner, row, self._held_until)
        if stored is None:
            raise LostRow
        return stored
