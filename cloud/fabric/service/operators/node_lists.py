"""Use case: operators read nodes and their generations."""

from dataclasses import dataclass
from typing import get_args

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.store.nodes import NodeStore
from protocol.ids import NodeId


@dataclass(frozen=True, kw_only=True)
class NodeLists:
    """Lists nodes and shows one with its generations."""

    nodes: NodeStore
    filters: ListFilters

    async def page(self, tenant: str, standing: str, cursor: str, limit: int) -> schemas.Page[schemas.Node]:
        """A page of nodes, the oldest first. An empty filter matches every node. Raises Invalid, NotFound."""
        if standing and standing not in get_args(schemas.Standing):
            raise Invalid(f"standing: must be one of {', '.join(get_args(schemas.Standing))}")
        await self.filters.check(tenant=tenant)
        rows = await self.nodes.page(tenant, standing, views.read_cursor(cursor), views.read_limit(limit) + 1)
        return views.page([views.node(row) for row in rows], [row.id for row in rows], limit)

    async def detail(self, node: NodeId) -> schemas.NodeDetail:
        """One node with its newest generations. Raises NotFound."""
        row = await self.nodes.find(node)
        if row is None:
            raise NotFound("no such node")
        generations = tuple(views.generation(entry) for entry in await self.nodes.generations(node))
        return schemas.NodeDetail(views.node(row), generations)
