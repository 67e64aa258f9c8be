"""Use case: operators read nodes and their generations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from cloud.fabric import schemas
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.ports import Now
from cloud.fabric.store.airgap import AirgapStore
from cloud.fabric.store.exchange_rows import AirgapExchangeRow
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow
from cloud.fabric.store.tenants import TenantStore
from protocol.ids import NodeId


@dataclass(frozen=True, kw_only=True)
class NodeLists:
    """Lists nodes and shows one with its generations."""

    now: Now
    nodes: NodeStore
    tenants: TenantStore
    airgap: AirgapStore
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
        rows = await self.nodes.generations(node)
        newest = await self.airgap.newest(node)
        since = newest.answered_at if newest is not None and is_outstanding(newest, rows) else None
        tenant = await self.tenants.find(row.tenant)
        policy = tenant.recovery if tenant is not None else RecoveryPolicy()
        repairs = views.repairs(row, policy, self.now())
        return schemas.NodeDetail(views.node(row), tuple(map(views.generation, rows)), since, repairs)


def is_outstanding(exchange: AirgapExchangeRow, generations: Sequence[GenerationRow]) -> bool:
    """Whether the receipt of an answer is outstanding. A later session of its generation shows that the node has it."""
    seen = [row.seen_at for row in generations if row.number >= exchange.generation and row.seen_at is not None]
    return exchange.state == "answered" and not any(at > exchange.answered_at for at in seen)
