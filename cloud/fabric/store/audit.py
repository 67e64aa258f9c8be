"""Store: the audit. The caller inserts an entry in the transaction of the change. Entries are never changed."""

from cloud.fabric.store.rows import AuditRow
from cloud.fabric.tables import Audit
from cloud.storage import Mapper, ServiceEngine, compiled, filtered, param

_AUDIT = Mapper(AuditRow, Audit)

_ADD = _AUDIT.insert
_PAGE = compiled(
    _AUDIT.select()
    .where(Audit.id < param("before"), filtered(Audit.tenant), filtered(Audit.object), filtered(Audit.action))
    .order_by(Audit.id, ascending=False),
    limit=param("limit"),
)


class AuditStore:
    """Audit entries."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: AuditRow) -> None:
        await self._engine.fetch(_ADD, **_AUDIT.values(row))

    async def page(self, tenant: str, subject: str, action: str, before: str, limit: int) -> list[AuditRow]:
        """Entries with an id below `before`, the newest first. An empty filter matches every entry."""
        rows = await self._engine.fetch(_PAGE, before=before, tenant=tenant, object=subject, action=action, limit=limit)
        return [_AUDIT.read(row) for row in rows]
