"""Use case: operators read the audit."""

from dataclasses import dataclass

from cloud.fabric import schemas
from cloud.fabric.service import views
from cloud.fabric.store.audit import AuditStore

_FIRST = "aud_8"
"""Above every audit id: the newest entry comes first."""


@dataclass(frozen=True, kw_only=True)
class AuditLists:
    """Shows the audit."""

    audit: AuditStore

    async def page(
        self, tenant: str, subject: str, action: str, cursor: str, limit: int
    ) -> schemas.Page[schemas.AuditEntry]:
        """The newest first; empty filters match all. Raises Invalid."""
        before = views.read_cursor(cursor) or _FIRST
        rows = await self.audit.page(tenant, subject, action, before, views.read_limit(limit) + 1)
        return views.page([views.audit(row) for row in rows], [row.id for row in rows], limit)
