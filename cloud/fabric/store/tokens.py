"""Store: operators' tokens, and tenants' consumers of the copy of events in NATS."""

from datetime import datetime

import msgspec

from cloud.fabric.store.rows import TokenRow
from cloud.fabric.tables import EventConsumer, OperatorToken
from cloud.storage import Mapper, ServiceEngine, compiled, param
from protocol.ids import TokenId

_TOKEN = Mapper(TokenRow, OperatorToken)

_ADD = _TOKEN.insert
_BY_ID = compiled(_TOKEN.select().where(OperatorToken.id == param("id")))
_NAME = compiled(OperatorToken.select(OperatorToken.name).where(OperatorToken.id == param("id")))
_BY_HASH = compiled(_TOKEN.select().where(OperatorToken.secret_hash == param("secret_hash")))
_PAGE = compiled(
    _TOKEN.select().where(OperatorToken.id > param("after")).order_by(OperatorToken.id), limit=param("limit")
)
_REVOKE = compiled(
    OperatorToken.update({OperatorToken.revoked_at: param("at")}).where(
        OperatorToken.id == param("id"), OperatorToken.revoked_at.is_null()
    )
)
_REVOKE_ALL = compiled(
    OperatorToken.update({OperatorToken.revoked_at: param("at")}).where(OperatorToken.revoked_at.is_null())
)


class TokenStore:
    """Operators' tokens."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: TokenRow) -> None:
        await self._engine.fetch(_ADD, **_TOKEN.values(row))

    async def find(self, token: TokenId) -> TokenRow | None:
        return _TOKEN.read_one(await self._engine.fetch_one(_BY_ID, id=token))

    async def name_of(self, token: TokenId) -> str:
        """The name of a token, also of a revoked one. It never changes, so a transaction needs no key for it."""
        rows = await self._engine.browse(_NAME, id=token)
        return str(rows[0]["name"]) if rows else ""

    async def find_by_hash(self, secret_hash: str) -> TokenRow | None:
        return _TOKEN.read_one(await self._engine.fetch_one(_BY_HASH, secret_hash=secret_hash))

    async def page(self, after: str, limit: int) -> list[TokenRow]:
        return [_TOKEN.read(row) for row in await self._engine.fetch(_PAGE, after=after, limit=limit)]

    async def revoke(self, token: TokenId, at: datetime) -> None:
        await self._engine.fetch(_REVOKE, id=token, at=at)

    async def revoke_all(self, at: datetime) -> None:
        """Revoke every token that is not revoked."""
        await self._engine.fetch(_REVOKE_ALL, at=at)


ACTIVE_MAX = 1000
"""Consumers of all tenants that may read. The server has as many connections for them."""


class ConsumerRow(msgspec.Struct, frozen=True):
    """A consumer. `public_key` is that of the tenant's program."""

    id: str
    tenant: str
    name: str
    public_key: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


_CONSUMER = Mapper(ConsumerRow, EventConsumer)
_CONSUMER_BY_ID = compiled(_CONSUMER.select().where(EventConsumer.id == param("id")))
_OF_TENANT = compiled(
    _CONSUMER.select()
    .where(EventConsumer.tenant == param("tenant"), EventConsumer.id > param("after"))
    .order_by(EventConsumer.id),
    limit=param("limit"),
)
_ACTIVE = compiled(
    EventConsumer.select(EventConsumer.id, EventConsumer.tenant)
    .where(EventConsumer.revoked_at.is_null(), EventConsumer.expires_at > param("now"))
    .order_by(EventConsumer.id),
    limit=param("limit"),
)
_REVOKE_CONSUMER = compiled(
    EventConsumer.update({EventConsumer.revoked_at: param("at")}).where(
        EventConsumer.id == param("id"), EventConsumer.revoked_at.is_null()
    )
)


class ConsumerStore:
    """Tenants' consumers."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: ConsumerRow) -> None:
        await self._engine.fetch(_CONSUMER.insert, **_CONSUMER.values(row))

    async def find(self, consumer: str) -> ConsumerRow | None:
        return _CONSUMER.read_one(await self._engine.fetch_one(_CONSUMER_BY_ID, id=consumer))

    async def page(self, tenant: str, after: str, limit: int) -> list[ConsumerRow]:
        """Return consumers of a tenant, the oldest first."""
        rows = await self._engine.fetch(_OF_TENANT, tenant=tenant, after=after, limit=limit)
        return [_CONSUMER.read(row) for row in rows]

    async def active(self, now: datetime) -> dict[str, str]:
        """Return the consumers that may read now, each with its tenant."""
        rows = await self._engine.fetch(_ACTIVE, now=now, limit=ACTIVE_MAX)
        return {row["id"]: row["tenant"] for row in rows}

    async def revoke(self, consumer: str, at: datetime) -> None:
        await self._engine.fetch(_REVOKE_CONSUMER, id=consumer, at=at)
