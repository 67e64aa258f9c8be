"""Store: activation codes and their seats."""

from datetime import datetime
from typing import Any

from cloud.contracts.fabric_events import CodePast
from cloud.fabric.store.events.facts import Facts
from cloud.fabric.store.rows import CodeRow
from cloud.fabric.tables import Code
from cloud.storage import Mapper, ServiceEngine, Statement, compiled, literal, param
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
_REVOKE = compiled(
    Code.update({Code.revoked_at: param("at")})
    .where(Code.id == param("id"), Code.revoked_at.is_null())
    .returning(*Code.all_columns())
)
_TAKE = compiled(
    Code.update({Code.seats_taken: Code.seats_taken + 1})
    .where(Code.id == param("id"), Code.seats_taken < Code.seats)
    .returning(*Code.all_columns())
)
_FREE = compiled(
    Code.update({Code.seats_taken: Code.seats_taken - 1})
    .where(Code.id == param("id"), Code.seats_taken > 0)
    .returning(*Code.all_columns())
)
_DUE = compiled(
    Code.select(Code.id)
    .where(Code.expired == literal(False), Code.expires_at <= param("now"))
    .order_by(Code.expires_at),
    limit=param("limit"),
)
_EXPIRE = compiled(
    Code.update({Code.expired: True})
    .where(Code.id == param("id"), Code.expired == literal(False), Code.expires_at <= param("now"))
    .returning(*Code.all_columns())
)


class CodeStore:
    """Activation codes and their seats."""

    def __init__(self, engine: ServiceEngine, facts: Facts) -> None:
        self._engine = engine
        self._facts = facts

    async def insert(self, row: CodeRow) -> None:
        await self._engine.fetch(_ADD, **_CODE.values(row))
        await self._facts.code(row, "created")

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
        await self._change(_REVOKE, "revoked", id=code, at=at)

    async def take_seat(self, code: CodeId) -> bool:
        """Take a seat by compare-and-set. True if a seat was free."""
        return await self._change(_TAKE, "used", id=code)

    async def free_seat(self, code: CodeId) -> None:
        await self._change(_FREE, "freed", id=code)

    async def due(self, now: datetime, limit: int) -> list[CodeId]:
        """Codes that have expired at `now`, and are not stored as expired. The earliest end comes first."""
        return [CodeId(row["id"]) for row in await self._engine.fetch(_DUE, now=now, limit=limit)]

    async def expire(self, code: CodeId, now: datetime) -> bool:
        """Store that a code has expired. False if it has not, or if that is stored."""
        return await self._change(_EXPIRE, "expired", id=code, now=now)

    async def _change(self, statement: Statement, past: CodePast, **values: Any) -> bool:
        """Run a statement that returns the changed row, and add the event. False if nothing changed."""
        row = _CODE.read_one(await self._engine.fetch_one(statement, **values))
        if row is not None:
            await self._facts.code(row, past)
        return row is not None
