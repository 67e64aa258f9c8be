"""Store: activation codes and their seats."""

from datetime import datetime

from cloud.fabric.store.rows import CodeRow
from cloud.fabric.tables import Code
from cloud.storage import Mapper, ServiceEngine, compiled, param
from protocol.ids import CodeId, TenantId

_CODE = Mapper(CodeRow, Code)

_ADD = _CODE.insert
_BY_ID = compiled(_CODE.select().where(Code.id == param("id")))
_BY_HASH = compiled(_CODE.select().where(Code.secret_hash == param("secret_hash")))
_BY_PROOF_KEY = compiled(_CODE.select().where(Code.proof_key == param("proof_key")))
_PAGE = compiled(
    _CODE.select().where(Code.tenant == param("tenant"), Code.id > param("after")).order_by(Code.id),
    limit=param("limit"),
)
_REVOKE = compiled(Code.update({Code.revoked_at: param("at")}).where(Code.id == param("id"), Code.revoked_at.is_null()))
_TAKE = compiled(
    Code.update({Code.seats_taken: Code.seats_taken + 1})
    .where(Code.id == param("id"), Code.seats_taken < Code.seats)
    .returning(Code.id)
)
_FREE = compiled(
    Code.update({Code.seats_taken: Code.seats_taken - 1}).where(Code.id == param("id"), Code.seats_taken > 0)
)


class CodeStore:
    """Activation codes and their seats."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: CodeRow) -> None:
        await self._engine.fetch(_ADD, **_CODE.values(row))

    async def find(self, code: CodeId) -> CodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_ID, id=code))

    async def find_by_hash(self, secret_hash: str) -> CodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_HASH, secret_hash=secret_hash))

    async def find_by_proof_key(self, proof_key: str) -> CodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_PROOF_KEY, proof_key=proof_key))

    async def page(self, tenant: TenantId, after: str, limit: int) -> list[CodeRow]:
        rows = await self._engine.fetch(_PAGE, tenant=tenant, after=after, limit=limit)
        return [_CODE.read(row) for row in rows]

    async def revoke(self, code: CodeId, at: datetime) -> None:
        await self._engine.fetch(_REVOKE, id=code, at=at)

    async def take_seat(self, code: CodeId) -> bool:
        """Take a seat by compare-and-set. True if a seat was free."""
        return bool(await self._engine.fetch(_TAKE, id=code))

    async def free_seat(self, code: CodeId) -> None:
        await self._engine.fetch(_FREE, id=code)
