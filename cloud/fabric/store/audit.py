"""Queries on the audit. Rows are added in the transaction of the deed and never changed."""

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import AuditRow
from cloud.fabric.tables import ENGINE

_AUDIT = Mapper(AuditRow, "audit")
_PAGE = _AUDIT.select(
    "WHERE id < {} AND ({} = '' OR tenant = {}) AND ({} = '' OR object = {}) AND ({} = '' OR action = {}) "
    "ORDER BY id DESC LIMIT {}"
)


async def insert(row: AuditRow) -> None:
    await ENGINE.fetch(_AUDIT.insert, *_AUDIT.args(row))


async def page(tenant: str, subject: str, action: str, before: str, limit: int) -> list[AuditRow]:
    """The newest first; empty filters match all."""
    rows = await ENGINE.fetch(_PAGE, before, tenant, tenant, subject, subject, action, action, limit)
    return [_AUDIT.read(row) for row in rows]
