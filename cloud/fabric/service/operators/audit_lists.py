"""Use case: operators read the audit."""

from dataclasses import dataclass

from cloud.fabric import schemas
from cloud.fabric.service import views
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.store.audit import FIRST_PAGE, AuditStore


@dataclass(frozen=True, kw_only=True)
class AuditLists:
    """Lists audit entries."""

    audit: AuditStore
    filters: ListFilters

    async def page(
        self, tenant: str, subject: str, action: str, cursor: str, limit: int, request: str = ""
    ) -> schemas.Page[schemas.AuditEntry]:
        """A page of entries, the newest first. An empty filter matches every entry. Raises Invalid, NotFound."""
        before = views.read_cursor(cursor) or FIRST_PAGE
        await self.filters.check(tenant=tenant)
        rows = await self.audit.page(tenant, subject, action, before, views.read_limit(limit) + 1, request)
        return views.page([views.audit(row) for row in rows], [row.id for row in rows], limit)
