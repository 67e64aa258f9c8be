"""Queries on operators' tokens."""

from datetime import datetime

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import TokenRow
from cloud.storage import ServiceEngine, Statement
from protocol.ids import TokenId

_TOKEN = Mapper(TokenRow, "operator_token")
_BY_ID = _TOKEN.select("WHERE id = {}")
_BY_HASH = _TOKEN.select("WHERE secret_hash = {}")
_PAGE = _TOKEN.select("WHERE id > {} ORDER BY id LIMIT {}")
_REVOKE = Statement("UPDATE operator_token SET revoked_at = {} WHERE id = {} AND revoked_at IS NULL")


class TokenStore:
    """Operators' tokens."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: TokenRow) -> None:
        await self._engine.fetch(_TOKEN.insert, *_TOKEN.args(row))

    async def find(self, token: TokenId) -> TokenRow | None:
        return _TOKEN.read_one(await self._engine.fetch_one(_BY_ID, token))

    async def find_by_hash(self, secret_hash: str) -> TokenRow | None:
        return _TOKEN.read_one(await self._engine.fetch_one(_BY_HASH, secret_hash))

    async def page(self, after: str, limit: int) -> list[TokenRow]:
        return [_TOKEN.read(row) for row in await self._engine.fetch(_PAGE, after, limit)]

    async def revoke(self, token: TokenId, at: datetime) -> None:
        await self._engine.fetch(_REVOKE, at, token)
