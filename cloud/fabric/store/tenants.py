"""Store: tenants and the hardware they trust."""

from cloud.fabric.schemas import PcrPolicy
from cloud.fabric.store.rows import EkAllowedRow, EkRootRow, TenantRow
from cloud.fabric.tables import EkAllowed, EkRoot, Tenant
from cloud.storage import Mapper, ServiceEngine, compiled, json_text, param, params
from protocol.ids import TenantId
from protocol.signed.statements import Tier

TRUST_ENTRIES_MAX = 256
"""Most allowed EKs of one tenant."""
EK_ROOTS_MAX = 512
"""Most CA certificates of makers that one tenant trusts. Those of all makers together are about 200."""

_TENANT = Mapper(TenantRow, Tenant)
_ROOT = Mapper(EkRootRow, EkRoot)
_ALLOWED = Mapper(EkAllowedRow, EkAllowed)

_ADD = _TENANT.insert
_BY_ID = compiled(_TENANT.select().where(Tenant.id == param("id")))
_PAGE = compiled(_TENANT.select().where(Tenant.id > param("after")).order_by(Tenant.id), limit=param("limit"))
_SET_TIERS = compiled(Tenant.update(params(Tenant.tiers)).where(Tenant.id == param("id")))
_SET_PCR_POLICIES = compiled(Tenant.update(params(Tenant.pcr_policies)).where(Tenant.id == param("id")))
_ADD_ROOT = _ROOT.insert_new
_ROOTS = compiled(
    _ROOT.select().where(EkRoot.tenant == param("tenant")).order_by(EkRoot.added_at, EkRoot.id).limit(EK_ROOTS_MAX)
)
_ADD_ALLOWED = _ALLOWED.insert_new
_ALLOWEDS = compiled(
    _ALLOWED.select()
    .where(EkAllowed.tenant == param("tenant"))
    .order_by(EkAllowed.added_at, EkAllowed.id)
    .limit(TRUST_ENTRIES_MAX)
)


class TenantStore:
    """Tenants and the hardware they trust."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: TenantRow) -> None:
        await self._engine.fetch(_ADD, **_TENANT.values(row))

    async def find(self, tenant: TenantId) -> TenantRow | None:
        return _TENANT.read_one(await self._engine.fetch_one(_BY_ID, id=tenant))

    async def page(self, after: str, limit: int) -> list[TenantRow]:
        return [_TENANT.read(row) for row in await self._engine.fetch(_PAGE, after=after, limit=limit)]

    async def set_tiers(self, tenant: TenantId, tiers: tuple[Tier, ...]) -> None:
        await self._engine.fetch(_SET_TIERS, id=tenant, tiers=json_text(tiers))

    async def set_pcr_policies(self, tenant: TenantId, policies: dict[str, PcrPolicy]) -> None:
        await self._engine.fetch(_SET_PCR_POLICIES, id=tenant, pcr_policies=json_text(policies))

    async def roots(self, tenant: TenantId) -> list[EkRootRow]:
        return [_ROOT.read(row) for row in await self._engine.fetch(_ROOTS, tenant=tenant)]

    async def add_root(self, row: EkRootRow) -> None:
        """Add a CA certificate. A row with the same id stays as it is."""
        await self._engine.fetch(_ADD_ROOT, **_ROOT.values(row))

    async def allowed(self, tenant: TenantId) -> list[EkAllowedRow]:
        return [_ALLOWED.read(row) for row in await self._engine.fetch(_ALLOWEDS, tenant=tenant)]

    async def add_allowed(self, row: EkAllowedRow) -> None:
        """Add an allowed chip. A row with the same id stays as it is."""
        await self._engine.fetch(_ADD_ALLOWED, **_ALLOWED.values(row))
