"""Store: the outbox of a service: its events, their positions, and the latest event of each object.

Rules: A position is given once, without gaps, and becomes visible together with all lower positions. The event with the
highest position is never deleted, so the next position is always known from the rows.
"""

from datetime import datetime

import msgspec
from piccolo.query.functions import Max

from cloud.events.tables import EventObject, EventOutbox, EventState
from cloud.storage import Mapper, ServiceEngine, Statement, compiled, insert_into, param, sql

POSITIONS = "events:positions"
"""The key of transactions that give positions."""
PURGE = "events:purge"
"""The key of transactions that delete old events."""
STATE = "outbox"
"""The name of the only row of the state."""


class EventRow(msgspec.Struct, frozen=True):
    """An event. `position` is None until the event has one."""

    position: int | None
    id: str
    type: str
    subject: str
    sequence: int
    time: datetime
    tenant: str
    traceparent: str
    data: bytes


class OutboxState(msgspec.Struct, frozen=True):
    """`epoch` is that of the database. At positions up to `purged`, old events may be missing."""

    epoch: int
    purged: int


_EVENT = Mapper(EventRow, EventOutbox)
_STATE_OF = Mapper(OutboxState, EventState)
_COLUMNS = EventRow.__struct_fields__


def _insert(position: str) -> Statement:
    """Return the INSERT of an event whose position is an expression in SQL."""
    names = ", ".join(f'"{name}"' for name in _COLUMNS)
    values = ", ".join([position, *(f"{{{name}}}" for name in _COLUMNS[1:])])
    # Piccolo names all columns in an INSERT, and the database gives the number.
    return Statement(f"INSERT INTO event_outbox ({names}) VALUES ({values})")  # noqa: S608  (names of columns)


_NEXT = compiled(
    insert_into(EventObject, {EventObject.sequence: 1})
    .on_conflict(
        target=EventObject.subject,
        action="DO UPDATE",
        # Piccolo leaves out the table's name, and PostgreSQL then cannot tell the old value from the new one.
        values=[(EventObject.sequence, sql("event_object.sequence + 1"))],
    )
    .returning(EventObject.sequence)
)
_INSERT = _insert("NULL")
_INSERT_PLACED = _insert(
    "(SELECT CASE WHEN EXISTS (SELECT 1 FROM event_outbox WHERE position IS NULL) THEN NULL "
    "ELSE (SELECT COALESCE(MAX(position), 0) + 1 FROM event_outbox) END)"
)
"""Without a position behind an event that has none: a backup of PostgreSQL can have such events."""
_WAITING = compiled(
    EventOutbox.select(EventOutbox.number).where(EventOutbox.position.is_null()).order_by(EventOutbox.number).limit(1)
)
_OLDEST_WAITING = compiled(
    EventOutbox.select(EventOutbox.time).where(EventOutbox.position.is_null()).order_by(EventOutbox.number).limit(1)
)
# Piccolo has no UPDATE ... FROM, and no window functions.
_PLACE = Statement(
    """UPDATE event_outbox SET position = numbered.position FROM (
        SELECT waiting.number AS number,
            (SELECT COALESCE(MAX(position), 0) FROM event_outbox) + ROW_NUMBER() OVER (ORDER BY waiting.number)
            AS position
        FROM (SELECT number FROM event_outbox WHERE position IS NULL ORDER BY number LIMIT {limit}) AS waiting
    ) AS numbered WHERE event_outbox.number = numbered.number RETURNING event_outbox.position"""
)
_HEAD = compiled(EventOutbox.select(Max(EventOutbox.position, alias="head")))
_AFTER = compiled(
    _EVENT.select().where(EventOutbox.position > param("after")).order_by(EventOutbox.position),
    limit=param("limit"),
)
# Piccolo joins tables by foreign keys only.
_LATEST = Statement(
    f"""SELECT {", ".join(f"event_outbox.{name}" for name in _COLUMNS)}
    FROM event_object JOIN event_outbox
    ON event_outbox.subject = event_object.subject AND event_outbox.sequence = event_object.sequence
    WHERE event_object.subject > {{after}} ORDER BY event_object.subject LIMIT {{limit}}"""  # noqa: S608  (names of columns)
)
_STATE = compiled(_STATE_OF.select().where(EventState.name == STATE))
_BEGIN = compiled(
    insert_into(EventState, {EventState.name: STATE, EventState.purged: 0}).on_conflict(
        target=EventState.name, action="DO NOTHING"
    )
)
_RAISE = compiled(
    insert_into(EventState, {EventState.name: STATE, EventState.purged: 0}).on_conflict(
        target=EventState.name, action="DO UPDATE", values=[EventState.epoch]
    )
)
_OLD = compiled(
    EventOutbox.select(EventOutbox.position, EventOutbox.time)
    .where(EventOutbox.position > param("purged"))
    .order_by(EventOutbox.position),
    limit=param("limit"),
)
# Piccolo has no DELETE with a join of a table with itself.
_DELETE_REPLACED = Statement(
    """DELETE FROM event_outbox WHERE number IN (
        SELECT old.number FROM event_outbox AS newer JOIN event_outbox AS old
        ON old.subject = newer.subject AND old.sequence < newer.sequence AND old.position < newer.position
        WHERE newer.position > {purged} AND newer.position <= {up_to}
    ) RETURNING number"""
)
_PURGED = compiled(EventState.update({EventState.purged: param("up_to")}).where(EventState.name == STATE))


class OutboxStore:
    """The queries of the outbox."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def next_sequence(self, subject: str) -> int:
        """Count an event of the object, and lock the object until the end of the transaction."""
        (row,) = await self._engine.fetch(_NEXT, subject=subject)
        return int(row["sequence"])

    async def insert(self, row: EventRow) -> None:
        """Insert an event. Where transactions commit in the order of their inserts, it gets its position at once."""
        statement = _INSERT_PLACED if self._engine.commits_in_order else _INSERT
        await self._engine.fetch(statement, **_EVENT.values(row, statement))

    async def is_waiting(self) -> bool:
        """Whether a committed event has no position."""
        return bool(await self._engine.fetch(_WAITING))

    async def waiting_since(self) -> datetime | None:
        """Return the time of the oldest event without a position, or None."""
        row = await self._engine.fetch_one(_OLDEST_WAITING)
        return None if row is None else row["time"]

    async def place(self, limit: int, patience: float | None = None) -> int:
        """Give positions to the `limit` oldest committed events without one. Return their number.

        Raises DatabaseBusy if another process does it for longer than `patience` seconds.
        """
        async with self._engine.transaction(POSITIONS, patience=patience):
            return len(await self._engine.fetch(_PLACE, limit=limit))

    async def head(self) -> int:
        """Return the highest position; 0 without events."""
        row = await self._engine.fetch_one(_HEAD)
        return 0 if row is None or row["head"] is None else int(row["head"])

    async def after(self, position: int, limit: int) -> list[EventRow]:
        """Return the first events after a position, in the order of positions."""
        return [_EVENT.read(row) for row in await self._engine.fetch(_AFTER, after=position, limit=limit)]

    async def latest(self, after: str, limit: int) -> list[EventRow]:
        """Return the latest events of the objects after a subject, in the order of subjects."""
        return [_EVENT.read(row) for row in await self._engine.fetch(_LATEST, after=after, limit=limit)]

    async def state(self) -> OutboxState | None:
        """Return the epoch and the purged position; None before `begin`."""
        return _STATE_OF.read_one(await self._engine.fetch_one(_STATE))

    async def begin(self, epoch: int) -> None:
        """Store the epoch of a new database. A database that has one keeps it."""
        await self._engine.fetch(_BEGIN, epoch=epoch)

    async def set_epoch(self, epoch: int) -> None:
        """Store another epoch."""
        await self._engine.fetch(_RAISE, epoch=epoch)

    async def is_older(self, before: datetime) -> bool:
        """Whether the purge has an event to go over that is older than `before`."""
        state = await self.state()
        rows = await self._engine.fetch(_OLD, purged=0 if state is None else state.purged, limit=1)
        return state is not None and bool(rows) and rows[0]["time"] < before

    async def purge(self, before: datetime, limit: int) -> int:
        """Go over the next `limit` events that are older than `before`. Delete the events that they replace.

        An event stays until a newer event of its object is as old. So the latest event of each object stays. Return the
        number of deleted events.
        """
        async with self._engine.transaction(PURGE):
            state = await self.state()
            if state is None:
                return 0
            up_to = state.purged
            for row in await self._engine.fetch(_OLD, purged=state.purged, limit=limit):
                if row["time"] >= before:
                    break
                up_to = int(row["position"])
            deleted = await self._engine.fetch(_DELETE_REPLACED, purged=state.purged, up_to=up_to)
            await self._engine.fetch(_PURGED, up_to=up_to)
            return len(deleted)
