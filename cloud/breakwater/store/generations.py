"""Store: generations of nodes. Certificates are issued only for open generations; a closed one never opens again.

Rules: A close blocks new certificates and then revokes the existing ones, in one transaction. A close of a node's
generations and an issuance for the node exclude each other, on all replicas.
"""

from typing import Any

from piccolo.query.functions import Count, Max

from cloud.breakwater.errors import Conflict
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.store.events import EventStore
from cloud.breakwater.store.revocation_writes import ANNOUNCED, REVOKED, announce
from cloud.breakwater.tables import Closing, Generation
from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.storage import ServiceEngine, compiled, excluded, insert_into, missing, param, sql, value_of

GENERATION_NOT_CLOSED = missing(
    Closing.select(Closing.node).where(Closing.node == Certificate.node, Closing.closed_up_to >= Certificate.generation)
) & missing(
    Generation.select(Generation.id).where(
        Generation.node == Certificate.node,
        Generation.generation == Certificate.generation,
        Generation.closed_at.is_not_null(),
    )
)
"""Condition on certificates: the generation is not closed."""
DEVICE_OF_GENERATION = (
    (Certificate.node == param("node"))
    & (Certificate.generation == param("generation"))
    & (Certificate.profile == "device")
)
"""Condition on certificates: the device certificates of one generation."""

_IS_OPEN = compiled(
    Generation.select(Generation.id).where(
        Generation.id == param("id"),
        Generation.tenant == param("tenant"),
        Generation.closed_at.is_null(),
        missing(
            Closing.select(Closing.node).where(
                Closing.node == Generation.node, Closing.closed_up_to >= Generation.generation
            )
        ),
    )
)
_OPEN = compiled(
    insert_into(Generation).on_conflict(target=Generation.id, action="DO NOTHING").returning(Generation.id)
)
# Piccolo has no UNION.
_OWNER = compiled(
    sql(
        "{} UNION {} LIMIT 2",
        Generation.select(Generation.tenant).where(Generation.node == param("node")),
        Closing.select(Closing.tenant).where(Closing.node == param("node")),
    )
)
_CLOSED_ALONE = compiled(
    Generation.select(Generation.id).where(Generation.id == param("id"), Generation.closed_at.is_not_null())
)
_CLOSE_ALONE = compiled(
    insert_into(Generation)
    .on_conflict(
        target=Generation.id,
        action="DO UPDATE",
        values=[Generation.closed_at],
        where=Generation.closed_at.is_null(),
    )
    .returning(Generation.id)
)
_CLOSED_UP_TO = compiled(Closing.select(Closing.closed_up_to).where(Closing.node == param("node")))
_CLOSE = compiled(
    insert_into(Closing)
    .on_conflict(
        target=Closing.node,
        action="DO UPDATE",
        values=[Closing.closed_up_to, Closing.closed_at],
        where=Closing.closed_up_to < excluded(Closing.closed_up_to),
    )
    .returning(Closing.node)
)

_OF_GENERATIONS = (
    (Certificate.node == param("node"))
    & (Certificate.generation >= param("first"))
    & (Certificate.generation <= param("last"))
)
_REVOKE = compiled(
    Certificate.update(REVOKED)
    .where(
        _OF_GENERATIONS,
        (Certificate.state == "recorded")
        | ((Certificate.profile == "device") & Certificate.state.is_in(["issued", "orphaned"])),
    )
    .returning(*ANNOUNCED)
)
_COUNT_REVOKED = compiled(
    Certificate.select(Count(alias="revoked")).where(
        _OF_GENERATIONS, Certificate.profile == "device", Certificate.state == "revoked"
    )
)
_NEWEST_OF_KEY = Certificate.select(Max(Certificate.recorded_at)).where(
    DEVICE_OF_GENERATION, Certificate.state == "issued", Certificate.spki_sha256 == param("spki_sha256")
)
_SUPERSEDE = compiled(
    Certificate.update(REVOKED)
    .where(
        DEVICE_OF_GENERATION,
        Certificate.state.is_in(["issued", "orphaned"]),
        Certificate.spki_sha256 != param("spki_sha256"),
        Certificate.recorded_at <= value_of(_NEWEST_OF_KEY),
    )
    .returning(*ANNOUNCED)
)


def generation_id(node: str, generation: int) -> str:
    """Return the key of a generation's row."""
    return f"{node}.{generation}"


def _generation(entry: AuditRow) -> dict[str, Any]:
    """Return the columns of the entry's generation, except `closed_at`."""
    return {
        "id": generation_id(entry.node, entry.generation),
        "tenant": entry.tenant,
        "node": entry.node,
        "generation": entry.generation,
        "opened_at": entry.at,
    }


class GenerationStore:
    """The queries of generations."""

    def __init__(self, engine: ServiceEngine, events: EventStore) -> None:
        self._engine = engine
        self._events = events
        self._audit = AuditStore(engine)

    async def is_open(self, tenant: str, node: str, generation: int) -> bool:
        """Whether a generation was opened for this tenant and is not closed."""
        return bool(await self._engine.fetch(_IS_OPEN, id=generation_id(node, generation), tenant=tenant))

    async def open(self, entry: AuditRow) -> None:
        """Open the entry's generation. Changes nothing if it is open.

        Raises:
            Conflict: the generation is closed, or the node belongs to another tenant.
        """
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            closed = await self._engine.fetch_one(_CLOSED_UP_TO, node=entry.node)
            identifier = generation_id(entry.node, entry.generation)
            alone = await self._engine.fetch_one(_CLOSED_ALONE, id=identifier)
            if alone is not None or (closed is not None and closed["closed_up_to"] >= entry.generation):
                raise Conflict(f"generation {entry.generation} of this node is closed for ever")
            if await self._engine.fetch(_OPEN, **_generation(entry), closed_at=None):
                await self._audit.add(entry)

    async def close_up_to(self, entry: AuditRow, reason: int) -> int:
        """Close every generation up to the entry's. Return how many of their device certificates are revoked now.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            if await self._engine.fetch(
                _CLOSE, node=entry.node, tenant=entry.tenant, closed_up_to=entry.generation, closed_at=entry.at
            ):
                await self._events.generations(entry.node)
                await self._audit.add(entry)
            return await self._revoke(entry, reason, first=1)

    async def close_one(self, entry: AuditRow, reason: int) -> int:
        """Close only the entry's generation. Return how many of its device certificates are revoked now.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            if await self._engine.fetch(_CLOSE_ALONE, **_generation(entry), closed_at=entry.at):
                await self._events.generations(entry.node)
                await self._audit.add(entry)
            return await self._revoke(entry, reason, first=entry.generation)

    async def supersede_keys(self, entry: AuditRow, spki_sha256: str, reason: int) -> int:
        """Revoke device certificates of the entry's generation that are for earlier keys.

        These are the certificates with other keys that were recorded no later than the newest certificate for
        `spki_sha256`. Returns how many were newly revoked.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        async with self._engine.transaction(f"node:{entry.node}"):
            await self._require_owner(entry)
            rows = await self._engine.fetch(
                _SUPERSEDE,
                node=entry.node,
                generation=entry.generation,
                spki_sha256=spki_sha256,
                reason=reason,
                at=entry.at,
            )
            if rows:
                await announce(self._engine, self._events, rows)
                await self._audit.add(entry)
            return len(rows)

    async def _revoke(self, entry: AuditRow, reason: int, first: int) -> int:
        """Revoke certificates of the generations from `first` to the entry's. Return how many devices' are revoked."""
        generations = {"node": entry.node, "first": first, "last": entry.generation}
        rows = await self._engine.fetch(_REVOKE, **generations, reason=reason, at=entry.at)
        await announce(self._engine, self._events, rows)
        row = await self._engine.fetch_one(_COUNT_REVOKED, **generations)
        return 0 if row is None else int(row["revoked"])

    async def _require_owner(self, entry: AuditRow) -> None:
        owners = await self._engine.fetch(_OWNER, node=entry.node)
        if any(row["tenant"] != entry.tenant for row in owners):
            raise Conflict("this node belongs to another tenant")
