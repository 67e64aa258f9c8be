"""Store: tenants and the hardware they trust."""

from datetime import datetime
from typing import Any

from piccolo.columns import Column
from piccolo.query.functions import Count

from cloud.contracts.fabric_events import TenantPast
from cloud.fabric.bodies.clones import ClonePolicy
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.schemas import LeaseTerms, PcrPolicy
from cloud.fabric.store.events.facts import Facts
from cloud.fabric.store.rows import EkAllowedRow, EkRootRow, TenantRow
from cloud.fabric.tables import EkAllowed, EkRoot, Node, Tenant
from cloud.storage import Mapper, ServiceEngine, Statement, compiled, json_text, param, params
from protocol.encoding import sha256_hex
from protocol.ids import TenantId
from protocol.signed.statements import Tier

TRUST_ENTRIES_MAX = 100_000
"""Most allowed EKs of one tenant. An entry has about 0.2 kB with its indexes."""
ALLOWED_SHOWN_MAX = 256
"""Allowed EKs in the answer with all of a tenant's trust. The list of its own has all of them."""
EK_ROOTS_MAX = 512
"""Most CA certificates of makers that one tenant trusts. Those of all makers together are about 200."""

_TENANT = Mapper(TenantRow, Tenant)
_ROOT = Mapper(EkRootRow, EkRoot)
_ALLOWED = Mapper(EkAllowedRow, EkAllowed)

_ADD = _TENANT.insert
_BY_ID = compiled(_TENANT.select().where(Tenant.id == param("id")))
_PAGE = compiled(_TENANT.select().where(Tenant.id > param("after")).order_by(Tenant.id), limit=param("limit"))


def _setting(column: Column) -> Statement:
    """A statement that sets one column of a tenant, and returns the row."""
    return compiled(Tenant.update(params(column)).where(Tenant.id == param("id")).returning(*Tenant.all_columns()))


_SET_TIERS = _setting(Tenant.tiers)
_SET_PCR_POLICIES = _setting(Tenant.pcr_policies)
_SET_APPROVAL_TIERS = _setting(Tenant.approval_tiers)
_SET_LEASE_TERMS = _setting(Tenant.lease_terms)
_SET_CLONE_POLICY = _setting(Tenant.clone_policy)
_SET_RECOVERY = _setting(Tenant.recovery)
_OVERLAP = compiled(
    Node.select(Node.overlap_until)
    .where(Node.tenant == param("tenant"), Node.overlap_until.is_not_null())
    .order_by(Node.overlap_until, ascending=False)
    .limit(1)
)
_ADD_ROOT = _ROOT.insert_new
_ROOTS = compiled(
    _ROOT.select().where(EkRoot.tenant == param("tenant")).order_by(EkRoot.added_at, EkRoot.id).limit(EK_ROOTS_MAX)
)
_REMOVE_ROOT = compiled(
    EkRoot.delete().where(EkRoot.tenant == param("tenant"), EkRoot.sha256 == param("sha256")).returning(EkRoot.id)
)
_ADD_ALLOWED = _ALLOWED.insert_new
_ALLOWEDS = compiled(
    _ALLOWED.select()
    .where(EkAllowed.tenant == param("tenant"))
    .order_by(EkAllowed.added_at, EkAllowed.id)
    .limit(ALLOWED_SHOWN_MAX)
)
_ALLOWED_PAGE = compiled(
    _ALLOWED.select().where(EkAllowed.tenant == param("tenant"), EkAllowed.id > param("after")).order_by(EkAllowed.id),
    limit=param("limit"),
)
_IS_ALLOWED = compiled(EkAllowed.select(EkAllowed.id).where(EkAllowed.id == param("id")))
_COUNT_ALLOWED = compiled(EkAllowed.select(Count(alias="n")).where(EkAllowed.tenant == param("tenant")))
_REMOVE_ALLOWED = compiled(
    EkAllowed.delete().where(EkAllowed.tenant == param("tenant"), EkAllowed.id == param("id")).returning(EkAllowed.id)
)


def allowed_id(tenant: TenantId, identifier: str) -> str:
    """The primary key of an allowed EK: a hash over tenant and identifier. So an activation finds it by the key."""
    return sha256_hex(f"{tenant}\n{identifier}".encode())


class TenantStore:
    """Tenants and the hardware they trust."""

    def __init__(self, engine: ServiceEngine, facts: Facts) -> None:
        self._engine = engine
        self._facts = facts

    async def insert(self, row: TenantRow, past: TenantPast) -> None:
        await self._engine.fetch(_ADD, **_TENANT.values(row))
        await self._facts.tenant(row, past)

    async def find(self, tenant: TenantId) -> TenantRow | None:
        return _TENANT.read_one(await self._engine.fetch_one(_BY_ID, id=tenant))

    async def page(self, after: str, limit: int) -> list[TenantRow]:
        return [_TENANT.read(row) for row in await self._engine.fetch(_PAGE, after=after, limit=limit)]

    async def set_tiers(self, tenant: TenantId, tiers: tuple[Tier, ...]) -> None:
        await self._change(_SET_TIERS, id=tenant, tiers=json_text(tiers))

    async def set_pcr_policies(self, tenant: TenantId, policies: dict[str, PcrPolicy]) -> None:
        await self._change(_SET_PCR_POLICIES, id=tenant, pcr_policies=json_text(policies))

    async def set_approval_tiers(self, tenant: TenantId, tiers: tuple[Tier, ...]) -> None:
        await self._change(_SET_APPROVAL_TIERS, id=tenant, approval_tiers=json_text(tiers))

    async def set_lease_terms(self, tenant: TenantId, terms: dict[Tier, LeaseTerms]) -> None:
        await self._change(_SET_LEASE_TERMS, id=tenant, lease_terms=json_text(terms))

    async def set_clone_policy(self, tenant: TenantId, policy: ClonePolicy) -> None:
        await self._change(_SET_CLONE_POLICY, id=tenant, clone_policy=policy)

    async def set_recovery(self, tenant: TenantId, policy: RecoveryPolicy) -> None:
        await self._change(_SET_RECOVERY, id=tenant, recovery=json_text(policy))

    async def _change(self, statement: Statement, **values: Any) -> None:
        row = _TENANT.read_one(await self._engine.fetch_one(statement, **values))
        if row is not None:
            await self._facts.tenant(row, "changed")

    async def overlap_until(self, tenant: TenantId) -> datetime | None:
        """The latest time until which a closed generation of the tenant's nodes may run offline; None without one."""
        row = await self._engine.fetch_one(_OVERLAP, tenant=tenant)
        return None if row is None else row["overlap_until"]

    async def roots(self, tenant: TenantId) -> list[EkRootRow]:
        return [_ROOT.read(row) for row in await self._engine.fetch(_ROOTS, tenant=tenant)]

    async def add_root(self, row: EkRootRow) -> None:
        """Add a CA certificate. A row with the same id stays as it is."""
        await self._engine.fetch(_ADD_ROOT, **_ROOT.values(row))

    async def remove_root(self, tenant: TenantId, sha256: str) -> bool:
        """Delete a CA certificate; True if there was one. An earlier release could store it for several EK types."""
        return bool(await self._engine.fetch(_REMOVE_ROOT, tenant=tenant, sha256=sha256))

    async def allowed(self, tenant: TenantId) -> list[EkAllowedRow]:
        """The first allowed EKs of a tenant, at most ALLOWED_SHOWN_MAX."""
        return [_ALLOWED.read(row) for row in await self._engine.fetch(_ALLOWEDS, tenant=tenant)]

    async def allowed_page(self, tenant: TenantId, after: str, limit: int) -> list[EkAllowedRow]:
        """Allowed EKs after the key `after`, in order of their keys."""
        rows = await self._engine.fetch(_ALLOWED_PAGE, tenant=tenant, after=after, limit=limit)
        return [_ALLOWED.read(row) for row in rows]

    async def count_allowed(self, tenant: TenantId) -> int:
        row = await self._engine.fetch_one(_COUNT_ALLOWED, tenant=tenant)
        return 0 if row is None else int(row["n"])

    async def is_allowed(self, tenant: TenantId, identifier: str) -> bool:
        """Whether the tenant allows the EK with this identifier."""
        return await self._engine.fetch_one(_IS_ALLOWED, id=allowed_id(tenant, identifier)) is not None

    async def add_allowed(self, row: EkAllowedRow) -> bool:
        """Add an allowed EK; True if it is new. A row with the same id stays as it is."""
        return bool(await self._engine.fetch(_ADD_ALLOWED, **_ALLOWED.values(row)))

    async def remove_allowed(self, tenant: TenantId, identifier: str) -> bool:
        """Delete an allowed EK; True if there was one."""
        return bool(await self._engine.fetch(_REMOVE_ALLOWED, tenant=tenant, id=allowed_id(tenant, identifier)))
