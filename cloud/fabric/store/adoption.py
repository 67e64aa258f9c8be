"""Store: which trust each node uses, and the wake-up of nodes for a renewal order.

Only nodes with an open confirmed generation count, active or suspended. A query reads one stretch of node ids, so no
query takes long. Each stretch is read by a separate query, so counts of a whole fleet are not from one moment. With
SQLite the stretches are read beside the event loop, which would otherwise do nothing else for the whole fleet.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
from piccolo.columns import ForeignKey
from piccolo.columns.combination import And
from piccolo.query.functions import Count

from cloud.fabric.store.hints import NODES_MAX, hint_of
from cloud.fabric.tables import Generation, Node
from cloud.storage import Mapper, ServiceEngine, Statement, compiled, param, params, sql
from protocol.ids import NodeId, TenantId

STRETCH_NODES = 2000
"""Nodes in one stretch: about 10 ms of database time."""


class NodeTrust(msgspec.Struct, frozen=True):
    """The trust that one node uses, as it reported. `trust_version` 0 and `device_issuer` empty: not reported yet."""

    node: NodeId
    tenant: TenantId
    trust_version: int
    device_issuer: str
    seen_at: datetime | None


class TrustReport(msgspec.Struct, frozen=True):
    """A report about one generation, from a session or a request for the statement. 0 and empty: not reported."""

    trust_version: int = 0
    device_issuer: str = ""


_NODE = Generation.node.join_on(Node.id)
_NODE_TRUST = Mapper(NodeTrust, Generation, node=_NODE.id, tenant=_NODE.tenant)


def _counts(node: type[Node] | ForeignKey[Any]) -> And:
    """SQL condition: the node has an open confirmed generation."""
    return node.standing.is_in(["active", "suspended"]) & (node.current_generation > node.closed_up_to)


_STRETCH_IDS = Node.select(Node.id).where(Node.id > param("after")).order_by(Node.id)
# Piccolo has no FROM (subquery).
_STRETCH = compiled(sql("SELECT MAX(id) AS last FROM ({} LIMIT {}) AS stretch", _STRETCH_IDS, param("limit")))
_IN_STRETCH = (
    (_NODE.id > param("after"))
    & (_NODE.id <= param("last"))
    & (Generation.number == _NODE.current_generation)
    & _counts(_NODE)
)
"""SQL condition on generations: the current generation of a node that counts, within a stretch of ids."""
_COUNTS = compiled(
    Generation.select(Generation.trust_version, Generation.device_issuer, Count(alias="nodes"))
    .where(_IN_STRETCH)
    .group_by(Generation.trust_version, Generation.device_issuer)
)
_BEHIND = compiled(
    _NODE_TRUST.select().where(_IN_STRETCH, Generation.trust_version < param("wanted")).order_by(_NODE.id),
    limit=param("limit"),
)
_OF_ISSUER = compiled(
    _NODE_TRUST.select().where(_IN_STRETCH, Generation.device_issuer == param("wanted")).order_by(_NODE.id),
    limit=param("limit"),
)
_REPORTED = compiled(
    Generation.update(params(Generation.trust_version)).where(
        Generation.id == param("id"), Generation.trust_version < param("trust_version")
    )
)
_SHOWN = compiled(
    Generation.update(params(Generation.device_issuer)).where(
        Generation.id == param("id"), Generation.device_issuer != param("device_issuer")
    )
)
_TO_WAKE = compiled(
    Node.select(Node.id).where(Node.id > param("after"), _counts(Node), Node.standing == "active").order_by(Node.id),
    limit=param("limit"),
)
_WAKE = compiled(Node.update({Node.wake_cursor: Node.wake_cursor + 1}).where(Node.id == param("id")))


class AdoptionStore:
    """Which trust each node uses."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def counts(self) -> AsyncIterator[tuple[int, str, int]]:
        """Yield (trust version, key id of the device certificate's issuer, number of nodes), stretch by stretch.

        The same pair of version and key id may come several times. The caller adds up the numbers.
        """
        after = ""
        while last := await self._end_of_stretch(after):
            for row in await self._engine.browse(_COUNTS, after=after, last=last):
                yield int(row["trust_version"]), str(row["device_issuer"]), int(row["nodes"])
            after = last

    async def behind(self, version: int, after: str, limit: int) -> list[NodeTrust]:
        """Nodes whose trust version is lower than `version`, in order of id, after the id `after`."""
        return await self._walk(_BEHIND, version, after, limit)

    async def of_issuer(self, key_id: str, after: str, limit: int) -> list[NodeTrust]:
        """Nodes whose last shown device certificate is from the CA `key_id`, in order of id, after the id `after`.

        An empty `key_id` selects nodes that have shown no device certificate yet.
        """
        return await self._walk(_OF_ISSUER, key_id, after, limit)

    async def write(self, reports: dict[str, TrustReport], version_max: int) -> None:
        """Store reports, keyed by generation id.

        A trust version above `version_max` was never published here and is ignored. A version that is not higher than
        the stored one is ignored too.
        """
        for generation, entry in reports.items():
            if 0 < entry.trust_version <= version_max:
                await self._engine.fetch(_REPORTED, id=generation, trust_version=entry.trust_version)
            if entry.device_issuer:
                await self._engine.fetch(_SHOWN, id=generation, device_issuer=entry.device_issuer)

    async def wake(self, after: str, limit: int) -> list[NodeId]:
        """Advance the wake cursors of the next active nodes after the id `after`. Returns their ids in order.

        All replicas get a hint to wake the polls of these nodes after the commit.
        """
        nodes = [NodeId(row["id"]) for row in await self._engine.fetch(_TO_WAKE, after=after, limit=limit)]
        for node in nodes:
            await self._engine.fetch(_WAKE, id=node)
        for start in range(0, len(nodes), NODES_MAX):
            self._engine.hint(hint_of(nodes[start : start + NODES_MAX]))
        return nodes

    async def _walk(self, statement: Statement, wanted: int | str, after: str, limit: int) -> list[NodeTrust]:
        found: list[NodeTrust] = []
        while len(found) < limit and (last := await self._end_of_stretch(after)):
            rows = await self._engine.browse(statement, after=after, last=last, wanted=wanted, limit=limit - len(found))
            found += [_NODE_TRUST.read(row) for row in rows]
            after = last
        return found

    async def _end_of_stretch(self, after: str) -> str:
        (row,) = await self._engine.browse(_STRETCH, after=after, limit=STRETCH_NODES)
        return "" if row["last"] is None else str(row["last"])
