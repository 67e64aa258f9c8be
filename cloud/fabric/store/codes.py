"""Queries on activation codes and their seats."""

from datetime import datetime

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import CodeRow
from cloud.fabric.tables import ENGINE
from cloud.storage import Statement
from protocol.ids import CodeId, TenantId

_CODE = Mapper(CodeRow, "code")
_BY_ID = _CODE.select("WHERE id = {}")
_BY_HASH = _CODE.select("WHERE secret_hash = {}")
_PAGE = _CODE.select("WHERE tenant = {} AND id > {} ORDER BY id LIMIT {}")
_REVOKE = Statement("UPDATE code SET revoked_at = {} WHERE id = {} AND revoked_at IS NULL")
_TAKE = Statement("UPDATE code SET seats_taken = seats_taken + 1 WHERE id = {} AND seats_taken < seats RETURNING id")
_FREE = Statement("UPDATE code SET seats_taken = seats_taken - 1 WHERE id = {} AND seats_taken > 0")


async def insert(row: CodeRow) -> None:
    await ENGINE.fetch(_CODE.insert, *_CODE.args(row))


async def find(code: CodeId) -> CodeRow | None:
    return _CODE.read_one(await ENGINE.fetch_one(_BY_ID, code))


async def find_by_hash(secret_hash: str) -> CodeRow | None:
    return _CODE.read_one(await ENGINE.fetch_one(_BY_HASH, secret_hash))


async def page(tenant: TenantId, after: str, limit: int) -> list[CodeRow]:
    return [_CODE.read(row) for row in await ENGINE.fetch(_PAGE, tenant, after, limit)]


async def revoke(code: CodeId, at: datetime) -> None:
    await ENGINE.fetch(_REVOKE, at, code)


async def take_seat(code: CodeId) -> bool:
    """Compare-and-set: True if a seat was free and is taken now."""
    return bool(await ENGINE.fetch(_TAKE, code))


async def free_seat(code: CodeId) -> None:
    await ENGINE.fetch(_FREE, code)
