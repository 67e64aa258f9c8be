"""Queries on activation codes and their seats."""

from datetime import datetime

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import CodeRow
from cloud.storage import ServiceEngine, Statement
from protocol.ids import CodeId, TenantId

_CODE = Mapper(CodeRow, "code")
_BY_ID = _CODE.select("WHERE id = {}")
_BY_HASH = _CODE.select("WHERE secret_hash = {}")
_PAGE = _CODE.select("WHERE tenant = {} AND id > {} ORDER BY id LIMIT {}")
_REVOKE = Statement("UPDATE code SET revoked_at = {} WHERE id = {} AND revoked_at IS NULL")
_TAKE = Statement("UPDATE code SET seats_taken = seats_taken + 1 WHERE id = {} AND seats_taken < seats RETURNING id")
_FREE = Statement("UPDATE code SET seats_taken = seats_taken - 1 WHERE id = {} AND seats_taken > 0")


class CodeStore:
    """Activation codes and their seats."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: CodeRow) -> None:
        await self._engine.fetch(_CODE.insert, *_CODE.args(row))

    async def find(self, code: CodeId) -> CodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_ID, code))

    async def find_by_hash(self, secret_hash: str) -> CodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_HASH, secret_hash))

    async def page(self, tenant: TenantId, after: str, limit: int) -> list[CodeRow]:
        return [_CODE.read(row) for row in await self._engine.fetch(_PAGE, tenant, after, limit)]

    async def revoke(self, code: CodeId, at: datetime) -> None:
        await self._engine.fetch(_REVOKE, at, code)

    async def take_seat(self, code: CodeId) -> bool:
        """Compare-and-set: True if a seat was free and is taken now."""
        return bool(await self._engine.fetch(_TAKE, code))

    async def free_seat(self, code: CodeId) -> None:
        await self._engine.fetch(_FREE, code)
