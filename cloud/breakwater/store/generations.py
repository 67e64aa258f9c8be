"""Generations: open ones are issued for, closed ones never again.

Rules kept here: closing blocks first, then revokes, in one transaction; what was closed never opens again; a close of
a node and an issuance for it exclude each other, on every replica.
"""

from cloud.breakwater.errors import Conflict
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.store.revocation_writes import announce
from cloud.storage import ServiceEngine, Statement

_IS_OPEN = Statement(
    "SELECT 1 AS open FROM generation g WHERE g.id = {} AND g.tenant = {} AND g.closed_at IS NULL "
    "AND NOT EXISTS (SELECT 1 FROM closing c WHERE c.node = g.node AND c.closed_up_to >= g.generation)"
)
_OPEN = Statement(
    "INSERT INTO generation (id, tenant, node, generation, opened_at) VALUES ({}, {}, {}, {}, {}) "
    "ON CONFLICT (id) DO NOTHING RETURNING id"
)
_OWNER = Statement(
    "SELECT tenant FROM generation WHERE node = {} UNION SELECT tenant FROM closing WHERE node = {} LIMIT 2"
)
_CLOSED_ALONE = Statement("SELECT id FROM generation WHERE id = {} AND closed_at IS NOT NULL")
_CLOSE_ALONE = Statement(
    "INSERT INTO generation (id, tenant, node, generation, opened_at, closed_at) VALUES ({}, {}, {}, {}, {}, {}) "
    "ON CONFLICT (id) DO UPDATE SET closed_at = excluded.closed_at WHERE generation.closed_at IS NULL RETURNING id"
)
_CLOSED_UP_TO = Statement("SELECT closed_up_to FROM closing WHERE node = {}")
_CLOSE = Statement(
    "INSERT INTO closing (node, tenant, closed_up_to, closed_at) VALUES ({}, {}, {}, {}) "
    "ON CONFLICT (node) DO UPDATE SET closed_up_to = excluded.closed_up_to, closed_at = excluded.closed_at "
    "WHERE closing.closed_up_to < excluded.closed_up_to RETURNING node"
)
_REVOKE = Statement(
    "UPDATE certificate SET state = 'revoked', reason = {}, revoked_at = COALESCE(revoked_at, {}) WHERE node = {} "
    "AND generation BETWEEN {} AND {} "
    "AND (state = 'recorded' OR (profile = 'device' AND state IN ('issued', 'orphaned'))) "
    "RETURNING serial, shard, service, feed"
)
_SUPERSEDE = Statement(
    "UPDATE certificate SET state = 'revoked', reason = {}, revoked_at = COALESCE(revoked_at, {}) WHERE node = {} "
    "AND generation = {} AND profile = 'device' AND state IN ('issued', 'orphaned') AND spki_sha256 <> {} "
    "AND recorded_at <= (SELECT MAX(k.recorded_at) FROM certificate k WHERE k.node = {} AND k.generation = {} "
    "AND k.profile = 'device' AND k.state = 'issued' AND k.spki_sha256 = {}) "
    "RETURNING serial, shard, service, feed"
)
_COUNT_REVOKED = Statement(
    "SELECT COUNT(*) AS revoked FROM certificate WHERE node = {} AND generation BETWEEN {} AND {} AND profile = 'device' "
    "AND state = 'revoked'"
)


def generation_id(node: str, generation: int) -> str:
    """The key of a generation's row."""
    return f"{node}.{generation}"


class GenerationStore:
    """The queries of generations."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def is_open(self, tenant: str, node: str, generation: int) -> bool:
        """Whether a generation was opened, for this tenant, and not closed since."""
        return bool(await self._engine.fetch(_IS_OPEN, generation_id(node, generation), tenant))

    async def open(self, entry: AuditRow) -> None:
        """Open; nothing changes when it is open already.

        Raises:
            Conflict: closed, or the node belongs to another tenant.
        """
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            closed = await self._engine.fetch_one(_CLOSED_UP_TO, entry.node)
            identifier = generation_id(entry.node, entry.generation)
            alone = await self._engine.fetch_one(_CLOSED_ALONE, identifier)
            if alone is not None or (closed is not None and closed["closed_up_to"] >= entry.generation):
                raise Conflict(f"generation {entry.generation} of this node is closed for ever")
            opened = await self._engine.fetch(_OPEN, identifier, entry.tenant, entry.node, entry.generation, entry.at)
            if opened:
                await self._audit.add(entry)

    async def close_up_to(self, entry: AuditRow, reason: int) -> int:
        """Close every generation up to the entry's; returns how many device serials of them are revoked by now.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            if await self._engine.fetch(_CLOSE, entry.node, entry.tenant, entry.generation, entry.at):
                await self._audit.add(entry)
            return await self._revoke(entry, reason, first=1)

    async def close_one(self, entry: AuditRow, reason: int) -> int:
        """Close the entry's generation alone; returns how many of its device serials are revoked by now.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            identifier = generation_id(entry.node, entry.generation)
            if await self._engine.fetch(
                _CLOSE_ALONE, identifier, entry.tenant, entry.node, entry.generation, entry.at, entry.at
            ):
                await self._audit.add(entry)
            return await self._revoke(entry, reason, first=entry.generation)

    async def supersede_keys(self, entry: AuditRow, spki_sha256: str, reason: int) -> int:
        """Revoke the device certificates of the entry's generation for other keys that came before the newest one of
        this key; returns how many were not revoked yet.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        key = (entry.node, entry.generation, spki_sha256)
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            rows = await self._engine.fetch(_SUPERSEDE, reason, entry.at, *key, *key)
            if rows:
                await announce(self._engine, rows)
                await self._audit.add(entry)
            return len(rows)

    async def _revoke(self, entry: AuditRow, reason: int, first: int) -> int:
        """Revoke what generations `first` to the entry's have; returns how many device serials are revoked."""
        await announce(
            self._engine,
            await self._engine.fetch(_REVOKE, reason, entry.at, entry.node, first, entry.generation),
        )
        row = await self._engine.fetch_one(_COUNT_REVOKED, entry.node, first, entry.generation)
        return 0 if row is None else int(row["revoked"])

    async def _require_owner(self, entry: AuditRow) -> None:
        owners = await self._engine.fetch(_OWNER, entry.node, entry.node)
        if any(row["tenant"] != entry.tenant for row in owners):
            raise Conflict("this node belongs to another tenant")
