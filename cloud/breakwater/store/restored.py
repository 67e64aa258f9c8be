"""Store: what a restore changes in the database of Breakwater, before the service uses it."""

from datetime import datetime

from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.store.generation_lists import RESTORED
from cloud.breakwater.tables import Counter, Enrolment
from cloud.storage import ServiceEngine, compiled, insert_into, param

_MARK = compiled(
    insert_into(Counter, {Counter.name: RESTORED}).on_conflict(
        target=Counter.name, action="DO UPDATE", values=[Counter.value]
    )
)
_END = compiled(Enrolment.update({Enrolment.expires_at: param("now")}).where(Enrolment.expires_at > param("now")))


class RestoredStore:
    """The writes of a restore."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def mark(self, at: datetime, entry: AuditRow) -> None:
        """Let all one-time secrets expire, and store the time of the restore."""
        async with self._engine.transaction():
            await self._engine.fetch(_END, now=at)
            await self._engine.fetch(_MARK, value=int(at.timestamp() * 1000))
            await self._audit.add(entry)
