"""Queries on nodes and their generations. Sessions and refresh run these; all are bounded by a key or a limit."""

from datetime import datetime

import msgspec

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import GenerationRow, NodeRow, generation_id
from cloud.storage import ServiceEngine, Statement
from protocol.ids import NodeId

GENERATIONS_SHOWN_MAX = 20

_NODE = Mapper(NodeRow, "node")
_GENERATION = Mapper(GenerationRow, "generation")

_BY_ID = _NODE.select("WHERE id = {}")
_BY_EK = _NODE.select("WHERE ek_hash = {}")
_PAGE = _NODE.select("WHERE id > {} AND ({} = '' OR tenant = {}) AND ({} = '' OR standing = {}) ORDER BY id LIMIT {}")
_CLOSING = _NODE.select("WHERE closing = {} AND id > {} ORDER BY id LIMIT {}")
_SEATS_DUE = _NODE.select(
    "WHERE standing = 'revoked' AND seat_held = {} AND closed_up_to = last_generation "
    "AND (lease_until IS NULL OR lease_until <= {}) ORDER BY id LIMIT {}"
)
_CURSOR = Statement("SELECT wake_cursor FROM node WHERE id = {}")
_OPEN = Statement(
    "SELECT 1 AS yes FROM generation g JOIN node n ON n.id = g.node "
    "WHERE g.id = {} AND g.state <> 'closed' AND n.tenant = {} AND g.number > n.closed_up_to"
)
_UPDATE = Statement(
    "UPDATE node SET standing = {}, standing_reason = {}, standing_at = {}, current_generation = {}, "
    "last_generation = {}, closed_up_to = {}, closing = {}, epoch = {}, seq = {}, code = {}, seat_held = {}, "
    "tier = {}, profile = {}, entitlements = {}, lease = {}, lease_until = {}, wake_cursor = {}, confirmed_at = {} "
    "WHERE id = {}"
)
_CLOSED = Statement(
    "UPDATE node SET closed_at_issuer = {}, closing = (closed_up_to > {}) WHERE id = {} AND closed_at_issuer < {}"
)
_SEAT_FREED = Statement("UPDATE node SET seat_held = {} WHERE id = {} AND seat_held = {} RETURNING id")

_GENERATION_BY_ID = _GENERATION.select("WHERE id = {}")
_GENERATIONS = _GENERATION.select(f"WHERE node = {{}} ORDER BY number DESC LIMIT {GENERATIONS_SHOWN_MAX}")
_OPEN_GENERATIONS = _GENERATION.select("WHERE node = {} AND state <> 'closed' AND number <= {} ORDER BY number")
_UPDATE_GENERATION = Statement(
    "UPDATE generation SET state = {}, confirmed_at = {}, statement = {}, statement_type = {}, seq = {}, "
    "issued_at = {}, refresh_after = {}, terminate_at = {} WHERE id = {}"
)
_SET_CERTIFICATE = Statement("UPDATE generation SET certificate_not_after = {} WHERE id = {}")
_SET_TOLD = Statement("UPDATE generation SET told_at = {} WHERE id = {} AND told_at IS NULL RETURNING id")
_SEEN = Statement(
    "UPDATE generation SET seen_at = {}, seen_fingerprint = {}, agent_version = {}, certificate_not_after = {} "
    "WHERE id = {}"
)


class Seen(msgspec.Struct, frozen=True):
    """What the last session of a generation showed."""

    at: datetime
    fingerprint: dict[str, str]
    agent_version: str
    certificate_not_after: datetime


class NodeStore:
    """Nodes and their generations."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: NodeRow) -> None:
        await self._engine.fetch(_NODE.insert, *_NODE.args(row))

    async def find(self, node: NodeId) -> NodeRow | None:
        return _NODE.read_one(await self._engine.fetch_one(_BY_ID, node))

    async def find_by_ek(self, ek_hash: str) -> NodeRow | None:
        return _NODE.read_one(await self._engine.fetch_one(_BY_EK, ek_hash))

    async def page(self, tenant: str, standing: str, after: str, limit: int) -> list[NodeRow]:
        """Empty `tenant` or `standing`: any."""
        rows = await self._engine.fetch(_PAGE, after, tenant, tenant, standing, standing, limit)
        return [_NODE.read(row) for row in rows]

    async def closing(self, after: str, limit: int) -> list[NodeRow]:
        """Nodes with generations that Breakwater has still to be told of."""
        return [_NODE.read(row) for row in await self._engine.fetch(_CLOSING, True, after, limit)]

    async def seats_due(self, now: datetime, limit: int) -> list[NodeRow]:
        """Revoked nodes whose last lease has terminated, with no readmission on its way, that still hold a seat."""
        return [_NODE.read(row) for row in await self._engine.fetch(_SEATS_DUE, True, now, limit)]

    async def cursor(self, node: NodeId) -> int | None:
        row = await self._engine.fetch_one(_CURSOR, node)
        return None if row is None else int(row["wake_cursor"])

    async def generation_open(self, tenant: str, node: NodeId, number: int) -> bool:
        return await self._engine.fetch_one(_OPEN, generation_id(node, number), tenant) is not None

    async def update(self, row: NodeRow) -> None:
        """Write all that changes in a node's life, inside the transaction that read it. `closed_at_issuer` has its own."""
        lease, entitlements = (msgspec.json.encode(value).decode() for value in (row.lease, row.entitlements))
        await self._engine.fetch(
            _UPDATE,
            row.standing,
            row.standing_reason,
            row.standing_at,
            row.current_generation,
            row.last_generation,
            row.closed_up_to,
            row.closed_up_to > row.closed_at_issuer,
            row.epoch,
            row.seq,
            row.code,
            row.seat_held,
            row.tier,
            row.profile,
            entitlements,
            lease,
            row.lease_until,
            row.wake_cursor,
            row.confirmed_at,
            row.id,
        )

    async def set_closed_at_issuer(self, node: NodeId, up_to: int) -> None:
        await self._engine.fetch(_CLOSED, up_to, up_to, node, up_to)

    async def free_seat(self, node: NodeId) -> bool:
        """Compare-and-set: True if the node held its seat until now."""
        return bool(await self._engine.fetch(_SEAT_FREED, False, node, True))

    async def insert_generation(self, row: GenerationRow) -> None:
        await self._engine.fetch(_GENERATION.insert, *_GENERATION.args(row))

    async def find_generation(self, node: NodeId, number: int) -> GenerationRow | None:
        return _GENERATION.read_one(await self._engine.fetch_one(_GENERATION_BY_ID, generation_id(node, number)))

    async def generations(self, node: NodeId) -> list[GenerationRow]:
        """The newest first."""
        return [_GENERATION.read(row) for row in await self._engine.fetch(_GENERATIONS, node)]

    async def open_generations(self, node: NodeId, up_to: int) -> list[GenerationRow]:
        """Those not closed yet; few, since a confirm closes all before it."""
        return [_GENERATION.read(row) for row in await self._engine.fetch(_OPEN_GENERATIONS, node, up_to)]

    async def update_generation(self, row: GenerationRow) -> None:
        """Write state and statement."""
        await self._engine.fetch(
            _UPDATE_GENERATION,
            row.state,
            row.confirmed_at,
            row.statement,
            row.statement_type,
            row.seq,
            row.issued_at,
            row.refresh_after,
            row.terminate_at,
            row.id,
        )

    async def set_certificate_end(self, node: NodeId, number: int, not_after: datetime) -> None:
        await self._engine.fetch(_SET_CERTIFICATE, not_after, generation_id(node, number))

    async def set_told(self, node: NodeId, number: int, at: datetime) -> bool:
        """Whether this is the first time."""
        return bool(await self._engine.fetch(_SET_TOLD, at, generation_id(node, number)))

    async def set_seen(self, key: str, seen: Seen) -> None:
        """`key` is the generation's id."""
        fingerprint = msgspec.json.encode(seen.fingerprint).decode()
        await self._engine.fetch(_SEEN, seen.at, fingerprint, seen.agent_version, seen.certificate_not_after, key)
