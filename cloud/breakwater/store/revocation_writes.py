"""What a revocation writes, whoever decides it: reason and time, the shard's revision, the place in the feed, the audit.

Rule: all of it in the one transaction of the decision, so that no CRL and no feed can miss what is revoked.
"""

from collections.abc import Sequence
from datetime import datetime

from cloud.breakwater.errors import NotAdmitted, ValueRefused
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.storage import Row, ServiceEngine, Statement

_MOVE_SHARD = Statement("UPDATE shard SET revision = revision + 1 WHERE id = {}")
_NEXT_FEED = Statement("UPDATE counter SET value = value + 1 WHERE name = 'revocation' RETURNING value")
_SET_FEED = Statement("UPDATE certificate SET feed = {} WHERE serial = {}")
_ONE = Statement("SELECT profile, state, service FROM certificate WHERE serial = {}")
_REVOKE_ONE = Statement(
    "UPDATE certificate SET state = 'revoked', reason = {}, revoked_at = COALESCE(revoked_at, {}) WHERE serial = {} "
    "AND profile = 'service' AND state IN ('recorded', 'issued', 'orphaned') RETURNING serial, shard, service, feed"
)
_REVOKE_SERVICE = Statement(
    "UPDATE certificate SET state = 'revoked', reason = {}, revoked_at = COALESCE(revoked_at, {}) WHERE service = {} "
    "AND profile = 'service' AND not_after > {} AND state IN ('recorded', 'issued', 'orphaned') "
    "RETURNING serial, shard, service, feed"
)


async def announce(engine: ServiceEngine, rows: Sequence[Row]) -> None:
    """In the transaction that made these certificates revoked or orphaned: tell their shards and the feed.

    `rows` have serial, shard, service and feed. A serial that stands in the feed already keeps its place.
    """
    for shard in sorted({row["shard"] for row in rows if row["shard"]}):
        await engine.fetch(_MOVE_SHARD, shard)
    for serial in sorted(row["serial"] for row in rows if row["service"] and not row["feed"]):
        (moved,) = await engine.fetch(_NEXT_FEED)
        await engine.fetch(_SET_FEED, moved["value"], serial)


class RevokingStore:
    """Revocation of services' certificates; nodes' are revoked by closing their generations."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def revoke(self, serial: str, reason: int, at: datetime, entry: AuditRow) -> bool:
        """Revoke one service certificate; False if it was revoked before.

        Raises:
            NotAdmitted: no such serial. ValueRefused: not a service's.
        """
        async with self._engine.transaction():
            row = await self._engine.fetch_one(_ONE, serial)
            if row is None:
                raise NotAdmitted("no certificate with this serial was issued here")
            if row["profile"] != "service":
                raise ValueRefused(f"a {row['profile']} certificate is not revoked by its serial: close its generation")
            return bool(await self._settle(await self._engine.fetch(_REVOKE_ONE, reason, at, serial), entry))

    async def revoke_service(self, service: str, reason: int, at: datetime, entry: AuditRow) -> tuple[str, ...]:
        """Revoke every certificate of a service that has not expired; returns the serials that were not yet."""
        async with self._engine.transaction():
            rows = await self._engine.fetch(_REVOKE_SERVICE, reason, at, service, at)
            return await self._settle(rows, entry)

    async def _settle(self, rows: list[Row], entry: AuditRow) -> tuple[str, ...]:
        if rows:
            await announce(self._engine, rows)
            await self._audit.add(entry)
        return tuple(sorted(row["serial"] for row in rows))
