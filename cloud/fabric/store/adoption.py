"""Queries on who works by which trust, and on waking the nodes that an order to renew is for.

Only nodes with an open confirmed generation count, active or suspended. A fleet is walked in stretches of its ids, so
that no statement takes long; what is counted is as of the moment each stretch was read.
"""

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from cloud.storage import ServiceEngine, Statement
from protocol.ids import NodeId, TenantId

STRETCH_NODES = 2000
"""About 10 ms of a database's time."""

_COUNTED = "n.standing IN ('active', 'suspended') AND n.current_generation > n.closed_up_to"
_JOINED = "FROM node n JOIN generation g ON g.node = n.id AND g.number = n.current_generation"
_STRETCH = Statement("SELECT max(id) AS last FROM (SELECT id FROM node WHERE id > {} ORDER BY id LIMIT {}) AS stretch")
_COUNTS = Statement(
    f"SELECT g.trust_version, g.device_issuer, count(*) AS nodes {_JOINED} WHERE n.id > {{}} AND n.id <= {{}} "
    f"AND {_COUNTED} GROUP BY g.trust_version, g.device_issuer"
)
_COLUMNS = "SELECT n.id AS node, n.tenant, g.trust_version, g.device_issuer, g.seen_at"
_BEHIND = Statement(
    f"{_COLUMNS} {_JOINED} WHERE n.id > {{}} AND n.id <= {{}} AND {_COUNTED} AND g.trust_version < {{}} "
    "ORDER BY n.id LIMIT {}"
)
_OF_ISSUER = Statement(
    f"{_COLUMNS} {_JOINED} WHERE n.id > {{}} AND n.id <= {{}} AND {_COUNTED} AND g.device_issuer = {{}} "
    "ORDER BY n.id LIMIT {}"
)
_REPORTED = Statement("UPDATE generation SET trust_version = {} WHERE id = {} AND trust_version < {}")
_SHOWN = Statement("UPDATE generation SET device_issuer = {} WHERE id = {} AND device_issuer <> {}")
_TO_WAKE = Statement(
    f"SELECT n.id FROM node n WHERE n.id > {{}} AND {_COUNTED} AND n.standing = 'active' ORDER BY n.id LIMIT {{}}"  # noqa: S608  no value stands in it
)
_WAKE = Statement("UPDATE node SET wake_cursor = wake_cursor + 1 WHERE id = {}")


class NodeTrust(msgspec.Struct, frozen=True):
    """What one node works by, as far as it has reported."""

    node: NodeId
    tenant: TenantId
    trust_version: int
    device_issuer: str
    seen_at: datetime | None


class TrustReport(msgspec.Struct, frozen=True):
    """What a session or a question reported of a generation; 0 and empty for nothing."""

    trust_version: int = 0
    device_issuer: str = ""


class AdoptionStore:
    """Which node works by which trust."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def counts(self) -> AsyncIterator[tuple[int, str, int]]:
        """(trust version, key id of the device certificate's issuer, nodes); the same pair may come several times."""
        after = ""
        while last := await self._end_of_stretch(after):
            for row in await self._engine.fetch(_COUNTS, after, last):
                yield int(row["trust_version"]), str(row["device_issuer"]), int(row["nodes"])
            after = last

    async def behind(self, version: int, after: str, limit: int) -> list[NodeTrust]:
        """Nodes after `after` that work by a trust before `version`, by id."""
        return await self._walk(_BEHIND, version, after, limit)

    async def of_issuer(self, key_id: str, after: str, limit: int) -> list[NodeTrust]:
        """Nodes after `after` whose last shown device certificate is of that issuer, by id; empty: none was shown."""
        return await self._walk(_OF_ISSUER, key_id, after, limit)

    async def write(self, reports: dict[str, TrustReport], version_max: int) -> None:
        """By generation id. A version that was never published here is ignored, and so is a lower one."""
        for generation, entry in reports.items():
            if 0 < entry.trust_version <= version_max:
                await self._engine.fetch(_REPORTED, entry.trust_version, generation, entry.trust_version)
            if entry.device_issuer:
                await self._engine.fetch(_SHOWN, entry.device_issuer, generation, entry.device_issuer)

    async def wake(self, after: str, limit: int) -> list[NodeId]:
        """Move the cursors of the next active nodes by id, and name them."""
        nodes = [NodeId(row["id"]) for row in await self._engine.fetch(_TO_WAKE, after, limit)]
        for node in nodes:
            await self._engine.fetch(_WAKE, node)
        return nodes

    async def _walk(self, statement: Statement, wanted: int | str, after: str, limit: int) -> list[NodeTrust]:
        found: list[NodeTrust] = []
        while len(found) < limit and (last := await self._end_of_stretch(after)):
            rows = await self._engine.fetch(statement, after, last, wanted, limit - len(found))
            found += [NodeTrust(**row) for row in rows]
            after = last
        return found

    async def _end_of_stretch(self, after: str) -> str:
        row = await self._engine.fetch_one(_STRETCH, after, STRETCH_NODES)
        return "" if row is None or row["last"] is None else str(row["last"])
