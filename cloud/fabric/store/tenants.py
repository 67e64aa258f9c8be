"""Queries on tenants and the hardware they trust."""

from cloud.fabric.store.mapper import Mapper
from cloud.fabric.store.rows import EkAllowedRow, EkRootRow, TenantRow
from cloud.storage import ServiceEngine, Statement
from protocol.ids import TenantId
from protocol.signed.statements import Tier

TRUST_ENTRIES_MAX = 256
"""EK roots, and allowed EKs, of one tenant."""

_TENANT = Mapper(TenantRow, "tenant")
_ROOT = Mapper(EkRootRow, "ek_root")
_ALLOWED = Mapper(EkAllowedRow, "ek_allowed")

_BY_ID = _TENANT.select("WHERE id = {}")
_PAGE = _TENANT.select("WHERE id > {} ORDER BY id LIMIT {}")
_SET_TIERS = Statement("UPDATE tenant SET tiers = {} WHERE id = {}")
_ROOTS = _ROOT.select(f"WHERE tenant = {{}} ORDER BY added_at, id LIMIT {TRUST_ENTRIES_MAX}")
_ALLOWEDS = _ALLOWED.select(f"WHERE tenant = {{}} ORDER BY added_at, id LIMIT {TRUST_ENTRIES_MAX}")


class TenantStore:
    """Tenants, and the hardware they trust."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: TenantRow) -> None:
        await self._engine.fetch(_TENANT.insert, *_TENANT.args(row))

    async def find(self, tenant: TenantId) -> TenantRow | None:
        return _TENANT.read_one(await self._engine.fetch_one(_BY_ID, tenant))

    async def page(self, after: str, limit: int) -> list[TenantRow]:
        return [_TENANT.read(row) for row in await self._engine.fetch(_PAGE, after, limit)]

    async def set_tiers(self, tenant: TenantId, tiers: tuple[Tier, ...]) -> None:
        text = "[" + ",".join(f'"{tier}"' for tier in tiers) + "]"
        await self._engine.fetch(_SET_TIERS, text, tenant)

    async def roots(self, tenant: TenantId) -> list[EkRootRow]:
        return [_ROOT.read(row) for row in await self._engine.fetch(_ROOTS, tenant)]

    async def add_root(self, row: EkRootRow) -> None:
        """Nothing happens if it is there."""
        await self._engine.fetch(_ROOT.insert_new, *_ROOT.args(row))

    async def allowed(self, tenant: TenantId) -> list[EkAllowedRow]:
        return [_ALLOWED.read(row) for row in await self._engine.fetch(_ALLOWEDS, tenant)]

    async def add_allowed(self, row: EkAllowedRow) -> None:
        """Nothing happens if it is there."""
        await self._engine.fetch(_ALLOWED.insert_new, *_ALLOWED.args(row))
