"""What operators read of nodes and of the audit."""

from typing import get_args

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.context import Core
from protocol.ids import NodeId

_FIRST = "aud_8"
"""Above every audit id: the newest entry comes first."""


async def page(core: Core, tenant: str, standing: str, cursor: str, limit: int) -> schemas.Page[schemas.Node]:
    """Empty filters match all. Raises Invalid."""
    if standing and standing not in get_args(schemas.Standing):
        raise Invalid(f"standing: one of {', '.join(get_args(schemas.Standing))}")
    rows = await core.stores.nodes.page(tenant, standing, views.read_cursor(cursor), views.read_limit(limit) + 1)
    return views.page([views.node(row) for row in rows], [row.id for row in rows], limit)


async def detail(core: Core, node: NodeId) -> schemas.NodeDetail:
    """Raises NotFound."""
    row = await core.stores.nodes.find(node)
    if row is None:
        raise NotFound("no such node")
    generations = tuple(views.generation(entry) for entry in await core.stores.nodes.generations(node))
    return schemas.NodeDetail(views.node(row), generations)


async def audit(
    core: Core, tenant: str, subject: str, action: str, cursor: str, limit: int
) -> schemas.Page[schemas.AuditEntry]:
    """The newest first; empty filters match all. Raises Invalid."""
    before = views.read_cursor(cursor) or _FIRST
    rows = await core.stores.audit.page(tenant, subject, action, before, views.read_limit(limit) + 1)
    return views.page([views.audit(row) for row in rows], [row.id for row in rows], limit)
