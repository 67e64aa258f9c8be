"""Store: exchanges with nodes without a network. The key of a node covers its exchanges."""

from datetime import datetime

from cloud.fabric.store.exchange_rows import AirgapExchangeRow
from cloud.fabric.tables import AirgapExchange
from cloud.storage import Mapper, ServiceEngine, compiled, filtered, param, params
from protocol.ids import AirgapRequestId, NodeId

_EXCHANGE = Mapper(AirgapExchangeRow, AirgapExchange)

_ADD = _EXCHANGE.insert
_BY_ID = compiled(_EXCHANGE.select().where(AirgapExchange.id == param("id")))
_OF_NODE = compiled(_EXCHANGE.select().where(AirgapExchange.id == param("id"), AirgapExchange.node == param("node")))
_NEWEST = compiled(
    _EXCHANGE.select()
    .where(AirgapExchange.node == param("node"))
    .order_by(AirgapExchange.answered_at, ascending=False)
    .limit(1)
)
_UPDATE = compiled(
    AirgapExchange.update(
        params(
            AirgapExchange.state,
            AirgapExchange.answered_at,
            AirgapExchange.valid_until,
            AirgapExchange.answered_by,
            AirgapExchange.seq,
            AirgapExchange.statement_type,
            AirgapExchange.statement_sha256,
            AirgapExchange.answer,
            AirgapExchange.answers_sha256,
            AirgapExchange.received_at,
            AirgapExchange.imported_at,
        )
    ).where(AirgapExchange.id == param("id"))
)
_SUPERSEDE = compiled(
    AirgapExchange.update({AirgapExchange.state: "superseded", AirgapExchange.answer: ""}).where(
        AirgapExchange.node == param("node"),
        AirgapExchange.state == "answered",
        AirgapExchange.id != param("besides"),
    )
)
_PAGE = compiled(
    _EXCHANGE.select()
    .where(
        AirgapExchange.id > param("after"),
        filtered(AirgapExchange.tenant),
        filtered(AirgapExchange.node),
        filtered(AirgapExchange.state),
    )
    .order_by(AirgapExchange.id),
    limit=param("limit"),
)
PURGED_AT_ONCE = 500
"""Rows that one statement deletes. With SQLite it blocks the event loop for a few milliseconds."""
_OLD = (
    AirgapExchange.select(AirgapExchange.id)
    .where(AirgapExchange.state.is_in(["received", "superseded"]), AirgapExchange.answered_at < param("before"))
    .limit(PURGED_AT_ONCE)
)
_PURGE = compiled(AirgapExchange.delete().where(AirgapExchange.id.is_in(_OLD)).returning(AirgapExchange.id))
_EXPIRED = (
    AirgapExchange.select(AirgapExchange.id)
    .where(AirgapExchange.answer != "", AirgapExchange.valid_until < param("now"))
    .limit(PURGED_AT_ONCE)
)
_EMPTY = compiled(
    AirgapExchange.update({AirgapExchange.answer: ""})
    .where(AirgapExchange.id.is_in(_EXPIRED))
    .returning(AirgapExchange.id)
)


class AirgapStore:
    """Answered requests of nodes without a network."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: AirgapExchangeRow) -> None:
        await self._engine.fetch(_ADD, **_EXCHANGE.values(row))

    async def update(self, row: AirgapExchangeRow) -> None:
        """Write state, answer and receipt of an exchange."""
        await self._engine.fetch(_UPDATE, **_EXCHANGE.values(row, _UPDATE))

    async def find(self, request: AirgapRequestId) -> AirgapExchangeRow | None:
        return _EXCHANGE.read_one(await self._engine.fetch_one(_BY_ID, id=request))

    async def find_of(self, node: NodeId, request: AirgapRequestId) -> AirgapExchangeRow | None:
        """The exchange of a request, if it is of this node."""
        return _EXCHANGE.read_one(await self._engine.fetch_one(_OF_NODE, id=request, node=node))

    async def newest(self, node: NodeId) -> AirgapExchangeRow | None:
        """The exchange of a node that was answered last."""
        return _EXCHANGE.read_one(await self._engine.fetch_one(_NEWEST, node=node))

    async def supersede(self, node: NodeId, besides: AirgapRequestId) -> None:
        """End the exchanges of a node whose receipt is outstanding, except that of the request `besides`."""
        await self._engine.fetch(_SUPERSEDE, node=node, besides=besides)

    async def page(self, tenant: str, node: str, state: str, after: str, limit: int) -> list[AirgapExchangeRow]:
        """Exchanges after the id `after`, in order of id. An empty filter matches every exchange."""
        rows = await self._engine.browse(_PAGE, after=after, tenant=tenant, node=node, state=state, limit=limit)
        return [_EXCHANGE.read(row) for row in rows]

    async def purge(self, now: datetime, before: datetime) -> None:
        """Delete finished exchanges that were answered before `before`, and the answers that ended before `now`."""
        while len(await self._engine.fetch(_PURGE, before=before)) == PURGED_AT_ONCE:
            pass
        while len(await self._engine.fetch(_EMPTY, now=now)) == PURGED_AT_ONCE:
            pass
