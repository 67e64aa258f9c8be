"""Store: the audit. The caller inserts an entry in the transaction of the change. Entries are never changed."""

from datetime import datetime

from cloud.fabric.store.rows import AuditRow
from cloud.fabric.tables import Audit
from cloud.storage import Mapper, ServiceEngine, compiled, filtered, param

_AUDIT = Mapper(AuditRow, Audit)

_ADD = _AUDIT.insert
_PAGE = compiled(
    _AUDIT.select()
    .where(
        Audit.id < param("before"),
        filtered(Audit.tenant),
        filtered(Audit.object),
        filtered(Audit.action),
        filtered(Audit.request),
    )
    .order_by(Audit.id, ascending=False),
    limit=param("limit"),
)
_OLD = compiled(
    Audit.select(Audit.id, Audit.at).where(Audit.id > param("after")).order_by(Audit.id), limit=param("limit")
)
_DELETE = compiled(
    Audit.delete()
    .where(
        Audit.id > param("after"),
        Audit.id <= param("last"),
        Audit.at < param("before"),
        (Audit.outcome == "refused") | Audit.action.is_in(["activation.challenged", "renewal.challenged"]),
    )
    .returning(Audit.id)
)
ROWS_LOOKED_AT = 500
"""Entries in one step of the purge. With SQLite a step blocks the event loop for a few milliseconds."""


FIRST_PAGE = "aud_8"
"""An id above every audit id. The first page starts below it."""


class AuditStore:
    """Audit entries."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: AuditRow) -> None:
        await self._engine.fetch(_ADD, **_AUDIT.values(row))

    async def page(
        self, tenant: str, subject: str, action: str, before: str, limit: int, request: str = ""
    ) -> list[AuditRow]:
        """Entries with an id below `before`, the newest first. An empty filter matches every entry.

        A filter that few entries match reads all entries.
        """
        filters = {"tenant": tenant, "object": subject, "action": action, "request": request}
        rows = await self._engine.browse(_PAGE, before=before, limit=limit, **filters)
        return [_AUDIT.read(row) for row in rows]

    async def purge(self, cursor: str, before: datetime) -> str:
        """Read the entries after `cursor` in order of their id, and delete refusals and challenges from before `before`.

        A challenge that was answered has further entries, which stay. Ids rise with time. Returns the cursor of
        the next step: the last entry that is older than `before`.
        """
        page = await self._engine.fetch(_OLD, after=cursor, limit=ROWS_LOOKED_AT)
        old = [str(row["id"]) for row in page if row["at"] < before]
        if not old:
            return cursor
        await self._engine.fetch(_DELETE, after=cursor, last=old[-1], before=before)
        return old[-1]
