"""Queries on the audit. Rows are added in the transaction of the deed and never changed."""

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import AuditRow
from cloud.storage import ServiceEngine

_AUDIT = Mapper(AuditRow, "audit")
_PAGE = _AUDIT.select(
    "WHERE id < {} AND ({} = '' OR tenant = {}) AND ({} = '' OR object = {}) AND ({} = '' OR action = {}) "
    "ORDER BY id DESC LIMIT {}"
)


class AuditStore:
    """The audit."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: AuditRow) -> None:
        await self._engine.fetch(_AUDIT.insert, *_AUDIT.args(row))

    async def page(self, tenant: str, subject: str, action: str, before: str, limit: int) -> list[AuditRow]:
        """The newest first; empty filters match all."""
        rows = await self._engine.fetch(_PAGE, before, tenant, tenant, subject, subject, action, action, limit)
        return [_AUDIT.read(row) for row in rows]
