"""Store: recovery codes."""

from datetime import datetime

from cloud.fabric.store.rows import RecoveryCodeRow
from cloud.fabric.tables import RecoveryCode
from cloud.storage import Mapper, ServiceEngine, compiled, filtered, param
from protocol.ids import NodeId, RecoveryCodeId, RecoveryId, TenantId

_CODE = Mapper(RecoveryCodeRow, RecoveryCode)
_IS_OPEN = (
    RecoveryCode.used_at.is_null()
    & RecoveryCode.revoked_at.is_null()
    & (RecoveryCode.usable_from <= param("now"))
    & (RecoveryCode.expires_at > param("now"))
)

_ADD = _CODE.insert
_BY_ID = compiled(_CODE.select().where(RecoveryCode.id == param("id")))
_BY_HASH = compiled(_CODE.select().where(RecoveryCode.secret_hash == param("secret_hash")))
_BY_PROOF_KEY = compiled(_CODE.select().where(RecoveryCode.proof_key == param("proof_key")))
_PAGE = compiled(
    _CODE.select()
    .where(RecoveryCode.id > param("after"), filtered(RecoveryCode.tenant), filtered(RecoveryCode.node))
    .order_by(RecoveryCode.id),
    limit=param("limit"),
)
_DELAYED = compiled(
    _CODE.select()
    .where(
        RecoveryCode.id > param("after"),
        filtered(RecoveryCode.tenant),
        filtered(RecoveryCode.node),
        RecoveryCode.used_at.is_null(),
        RecoveryCode.revoked_at.is_null(),
        RecoveryCode.usable_from > param("now"),
    )
    .order_by(RecoveryCode.id),
    limit=param("limit"),
)
_NEWEST = compiled(
    _CODE.select()
    .where(RecoveryCode.tenant == param("tenant"), RecoveryCode.node == param("node"))
    .order_by(RecoveryCode.created_at, ascending=False)
    .limit(1)
)
_REVOKE = compiled(
    RecoveryCode.update({RecoveryCode.revoked_at: param("at")})
    .where(RecoveryCode.id == param("id"), RecoveryCode.revoked_at.is_null(), RecoveryCode.used_at.is_null())
    .returning(RecoveryCode.id)
)
_REVOKE_OF_CASE = compiled(
    RecoveryCode.update({RecoveryCode.revoked_at: param("at")})
    .where(
        RecoveryCode.node == param("node"),
        RecoveryCode.recovery_case == param("recovery_case"),
        RecoveryCode.revoked_at.is_null(),
        RecoveryCode.used_at.is_null(),
    )
    .returning(RecoveryCode.id)
)
_USE = compiled(
    RecoveryCode.update({RecoveryCode.used_at: param("now"), RecoveryCode.used_case: param("used_case")})
    .where(RecoveryCode.id == param("id"), _IS_OPEN)
    .returning(RecoveryCode.id)
)


class RecoveryCodeStore:
    """Recovery codes."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: RecoveryCodeRow) -> None:
        await self._engine.fetch(_ADD, **_CODE.values(row))

    async def find(self, code: RecoveryCodeId) -> RecoveryCodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_ID, id=code))

    async def find_by_hash(self, secret_hash: str) -> RecoveryCodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_HASH, secret_hash=secret_hash))

    async def find_by_proof_key(self, proof_key: str) -> RecoveryCodeRow | None:
        return _CODE.read_one(await self._engine.fetch_one(_BY_PROOF_KEY, proof_key=proof_key))

    async def page(self, tenant: str, node: str, after: str, limit: int) -> list[RecoveryCodeRow]:
        """Codes after the id `after`, in order of id. An empty filter matches every code."""
        rows = await self._engine.browse(_PAGE, tenant=tenant, node=node, after=after, limit=limit)
        return [_CODE.read(row) for row in rows]

    async def delayed(self, tenant: str, node: str, now: datetime, after: str, limit: int) -> list[RecoveryCodeRow]:
        """As `page`, with only the codes that will be accepted later."""
        rows = await self._engine.browse(_DELAYED, tenant=tenant, node=node, now=now, after=after, limit=limit)
        return [_CODE.read(row) for row in rows]

    async def newest(self, tenant: TenantId, node: str) -> RecoveryCodeRow | None:
        """The newest code of a node. With an empty `node`: the newest code of the tenant that is bound to no node."""
        return _CODE.read_one(await self._engine.fetch_one(_NEWEST, tenant=tenant, node=node))

    async def revoke(self, code: RecoveryCodeId, at: datetime) -> bool:
        """Revoke a code. False if it is used or revoked already."""
        return bool(await self._engine.fetch(_REVOKE, id=code, at=at))

    async def revoke_of_case(self, node: NodeId, case: RecoveryId, at: datetime) -> list[RecoveryCodeId]:
        """Revoke the unused codes that were issued for a case of the node. Returns their ids."""
        rows = await self._engine.fetch(_REVOKE_OF_CASE, node=node, recovery_case=case, at=at)
        return [RecoveryCodeId(row["id"]) for row in rows]

    async def use(self, code: RecoveryCodeId, used_case: str, now: datetime) -> bool:
        """Mark a code as used by compare-and-set. False unless it is accepted at `now`."""
        return bool(await self._engine.fetch(_USE, id=code, used_case=used_case, now=now))
