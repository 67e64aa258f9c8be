"""Store: how far this service has followed the events of a producer, and the newest event of each object it applied.

Rule: A cursor only rises. All processes of the service share it, and write it under the key of the producer.
"""

from cloud.events.cursor import Cursor, parse_cursor
from cloud.events.tables import EventApplied, EventCursor
from cloud.storage import ServiceEngine, compiled, excluded, insert_into, param

ABSENT_MAX = 100
"""Objects that one transaction forgets."""

_CURSOR = compiled(EventCursor.select(EventCursor.cursor).where(EventCursor.producer == param("producer")))
_SET = compiled(
    insert_into(EventCursor).on_conflict(
        target=EventCursor.producer,
        action="DO UPDATE",
        values=[EventCursor.cursor, EventCursor.epoch, EventCursor.position],
    )
)
_APPLY = compiled(
    insert_into(EventApplied)
    .on_conflict(
        target=EventApplied.key,
        action="DO UPDATE",
        values=[EventApplied.epoch, EventApplied.sequence],
        where=(EventApplied.epoch < excluded(EventApplied.epoch))
        | (
            (EventApplied.epoch == excluded(EventApplied.epoch))
            & (EventApplied.sequence < excluded(EventApplied.sequence))
        ),
    )
    .returning(EventApplied.key)
)
_OLDER = compiled(
    EventApplied.select(EventApplied.key)
    .where(EventApplied.key > param("first"), EventApplied.key < param("last"), EventApplied.epoch < param("epoch"))
    .order_by(EventApplied.key)
    .limit(ABSENT_MAX)
)
_FORGET = compiled(EventApplied.delete().where(EventApplied.key == param("key")).returning(EventApplied.key))


def key_of(producer: str) -> str:
    """Return the key of transactions that apply the events of a producer."""
    return f"events:{producer}"


class FollowedStore:
    """The queries about one producer."""

    def __init__(self, engine: ServiceEngine, producer: str) -> None:
        self._engine = engine
        self._producer = producer

    async def cursor(self) -> Cursor | None:
        """Return how far the service has followed; None before the first snapshot.

        Raises:
            CursorError: the stored text is not a cursor of this producer.
        """
        row = await self._engine.fetch_one(_CURSOR, producer=self._producer)
        return None if row is None else parse_cursor(row["cursor"], self._producer)

    async def set_cursor(self, cursor: Cursor) -> None:
        """Store how far the service has followed, in the transaction of the effects."""
        await self._engine.fetch(
            _SET, producer=self._producer, cursor=str(cursor), epoch=cursor.epoch, position=cursor.position
        )

    async def is_new(self, subject: str, epoch: int, sequence: int) -> bool:
        """Record an event of an object. False if the same event or a newer one is recorded already."""
        key = f"{self._producer}/{subject}"
        return bool(await self._engine.fetch(_APPLY, key=key, epoch=epoch, sequence=sequence))

    async def older(self, noun: str, epoch: int) -> list[str]:
        """Return the first subjects of a noun whose newest recorded event is of an epoch before `epoch`."""
        prefix = f"{self._producer}/"
        rows = await self._engine.fetch(_OLDER, first=f"{prefix}{noun}/", last=f"{prefix}{noun}0", epoch=epoch)
        return [str(row["key"]).removeprefix(prefix) for row in rows]

    async def forget(self, subject: str) -> bool:
        """Forget an object. False if it is not recorded."""
        return bool(await self._engine.fetch(_FORGET, key=f"{self._producer}/{subject}"))
