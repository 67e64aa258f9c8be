"""Store: how far the events of a service are copied to NATS, and which process copies.

One process holds the row for some time and renews that time while it copies. Every change names its owner, so a process
that has lost the row changes nothing.
"""

from datetime import datetime

import msgspec

from cloud.events.tables import EventCopy
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param

ROW = "jetstream"
"""The name of the only row."""


class CopyRow(msgspec.Struct, frozen=True):
    """The progress of the copy: see `cloud.events.tables.EventCopy`."""

    stream: str
    position: int
    replay: int
    replay_next: int
    replay_last: int


_ROW = Mapper(CopyRow, EventCopy)
_RETURNED = (
    EventCopy.stream,
    EventCopy.position,
    EventCopy.replay,
    EventCopy.replay_next,
    EventCopy.replay_last,
)
_BEGIN = compiled(
    insert_into(
        EventCopy,
        {
            EventCopy.name: ROW,
            EventCopy.owner: "",
            EventCopy.stream: "",
            EventCopy.position: 0,
            EventCopy.replay: 0,
            EventCopy.replay_next: 0,
            EventCopy.replay_last: 0,
        },
    ).on_conflict(target=EventCopy.name, action="DO NOTHING")
)
_FIND = compiled(_ROW.select().where(EventCopy.name == ROW))
_HOLD = compiled(
    EventCopy.update({EventCopy.owner: param("owner"), EventCopy.held_until: param("until")})
    .where(EventCopy.name == ROW, (EventCopy.owner == param("owner")) | (EventCopy.held_until <= param("now")))
    .returning(*_RETURNED)
)
_RELEASE = compiled(
    EventCopy.update({EventCopy.held_until: param("now")}).where(
        EventCopy.name == ROW, EventCopy.owner == param("owner")
    )
)
_ADVANCE = compiled(
    EventCopy.update(
        {
            EventCopy.held_until: param("until"),
            EventCopy.stream: param("stream"),
            EventCopy.position: param("position"),
            EventCopy.replay_next: param("replay_next"),
        }
    )
    .where(EventCopy.name == ROW, EventCopy.owner == param("owner"))
    .returning(*_RETURNED)
)
_REPLAY = compiled(
    EventCopy.update(
        {
            EventCopy.replay: EventCopy.replay + 1,
            EventCopy.replay_next: param("first"),
            EventCopy.replay_last: param("last"),
        }
    )
    .where(EventCopy.name == ROW, EventCopy.replay_next == 0)
    .returning(*_RETURNED)
)


class CopyStore:
    """The queries of the copy."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def begin(self, now: datetime) -> None:
        """Make the row. A row that exists is unchanged."""
        await self._engine.fetch(_BEGIN, held_until=now)

    async def find(self) -> CopyRow | None:
        """Return the progress; None before `begin`."""
        return _ROW.read_one(await self._engine.fetch_one(_FIND))

    async def hold(self, owner: str, now: datetime, until: datetime) -> CopyRow | None:
        """Hold the row until a time. Returns None if another process holds it."""
        return _ROW.read_one(await self._engine.fetch_one(_HOLD, owner=owner, now=now, until=until))

    async def release(self, owner: str, now: datetime) -> None:
        """Let another process hold the row at once."""
        await self._engine.fetch(_RELEASE, owner=owner, now=now)

    async def advance(self, owner: str, row: CopyRow, until: datetime) -> CopyRow | None:
        """Store the progress, and hold the row until a time. Returns None if another process has taken the row."""
        found = await self._engine.fetch_one(
            _ADVANCE,
            owner=owner,
            until=until,
            stream=row.stream,
            position=row.position,
            replay_next=row.replay_next,
        )
        return _ROW.read_one(found)

    async def replay(self, first: int, last: int) -> CopyRow | None:
        """Have the events of the positions copied once more. Returns None while an earlier order is not done."""
        return _ROW.read_one(await self._engine.fetch_one(_REPLAY, first=first, last=last))
