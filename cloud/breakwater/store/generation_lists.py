"""Store: the generations of all nodes, in pages. Fabric compares them with its own after a restore."""

from collections import defaultdict
from collections.abc import Sequence

from cloud.breakwater.tables import Closing, Counter, Generation
from cloud.contracts.breakwater import GenerationsPage, NodeGenerations
from cloud.storage import Row, ServiceEngine, compiled, missing, param
from protocol.ids import NodeId, TenantId

PAGE_NODES = 200
"""Nodes of one page. Their answer has about 20 kB."""
RESTORED = "restored"
"""The counter with the time of the last restore, in milliseconds. There is no row before the first restore."""

_OPENED_NODES = compiled(
    Generation.select(Generation.node).distinct().where(Generation.node > param("after")).order_by(Generation.node),
    limit=param("limit"),
)
_CLOSED_NODES = compiled(
    Closing.select(Closing.node).where(Closing.node > param("after")).order_by(Closing.node), limit=param("limit")
)
_CLOSINGS = compiled(
    Closing.select(Closing.node, Closing.tenant, Closing.closed_up_to).where(
        Closing.node > param("after"), Closing.node <= param("last")
    )
)
_GENERATIONS = compiled(
    Generation.select(Generation.node, Generation.tenant, Generation.generation, Generation.closed_at)
    .where(
        Generation.node > param("after"),
        Generation.node <= param("last"),
        missing(
            Closing.select(Closing.node).where(
                Closing.node == Generation.node, Closing.closed_up_to >= Generation.generation
            )
        ),
    )
    .order_by(Generation.generation)
)
_RESTORED = compiled(Counter.select(Counter.value).where(Counter.name == RESTORED))


class GenerationListStore:
    """Lists the generations of all nodes, and says when this database was restored."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def page(self, after: str, limit: int = PAGE_NODES) -> GenerationsPage:
        """Return the generations of the nodes after the id `after`, at most `limit` nodes.

        Generations below `closed_up_to` are left out. A change during the queries shows in this page or in the next
        list: a closed generation never opens again.
        """
        found = [
            str(row["node"])
            for query in (_OPENED_NODES, _CLOSED_NODES)
            for row in await self._engine.browse(query, after=after, limit=limit + 1)
        ]
        nodes = sorted(set(found))
        shown = nodes[:limit]
        last = shown[-1] if shown else after
        closings = await self._engine.browse(_CLOSINGS, after=after, last=last)
        rows = await self._engine.browse(_GENERATIONS, after=after, last=last)
        return GenerationsPage(
            nodes=_by_node(closings, rows), cursor=last if len(nodes) > limit else "", restored=await self.restored()
        )

    async def restored(self) -> int:
        """Return the time of this database's last restore from a backup, in milliseconds; 0 before the first."""
        row = await self._engine.fetch_one(_RESTORED)
        return 0 if row is None else int(row["value"])


def _by_node(closings: Sequence[Row], rows: Sequence[Row]) -> tuple[NodeGenerations, ...]:
    """Return the generations of each node, in the order of the ids."""
    up_to = {str(row["node"]): int(row["closed_up_to"]) for row in closings}
    tenants = {str(row["node"]): str(row["tenant"]) for row in (*closings, *rows)}
    opened: dict[str, list[int]] = defaultdict(list)
    closed: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        (opened if row["closed_at"] is None else closed)[str(row["node"])].append(int(row["generation"]))
    return tuple(
        NodeGenerations(
            node=NodeId(node),
            tenant=TenantId(tenants[node]),
            closed_up_to=up_to.get(node, 0),
            opened=tuple(opened[node]),
            closed=tuple(closed[node]),
        )
        for node in sorted(tenants)
    )
