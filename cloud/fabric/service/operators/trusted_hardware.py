"""Use case: operators import long lists of allowed chips, page through them, and remove trusted hardware."""

from dataclasses import dataclass

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.service.ports import Now
from cloud.fabric.store.keys import tenant_key
from cloud.fabric.store.rows import EkAllowedRow
from cloud.fabric.store.tenants import TRUST_ENTRIES_MAX, TenantStore, allowed_id
from cloud.http.guard import Operator
from protocol.endorsement import ek_identifier
from protocol.ids import TenantId


@dataclass(frozen=True, kw_only=True)
class TrustedHardware:
    """Imports, lists and removes the hardware that tenants trust."""

    now: Now
    acting: Acting
    audit: AuditLog
    tenants: TenantStore
    hardware: Tenants
    entries_max: int = TRUST_ENTRIES_MAX

    async def allow_eks(self, operator: Operator, tenant: TenantId, body: schemas.AllowEks) -> schemas.AllowedEks:
        """Admit chips as `attested` by their endorsement keys. A value that identifies none keeps the others not out.

        One audit entry has the numbers. Raises NotFound, Invalid.
        """
        await self.hardware.find(tenant)
        now, note = self.now(), check_text("note", body.note)
        wanted: dict[str, None] = {}
        refused: list[schemas.RefusedEk] = []
        for number, text in enumerate(body.eks, start=1):
            try:
                wanted[ek_identifier(text)] = None
            except ValueError as error:
                refused.append(schemas.RefusedEk(number, str(error)))
        async with self.acting.transaction(operator, tenant_key(tenant)):
            added = 0
            for identifier in wanted:
                row = EkAllowedRow(allowed_id(tenant, identifier), tenant, identifier, note, now)
                added += await self.tenants.add_allowed(row)
            total = await self.tenants.count_allowed(tenant)
            if added and total > self.entries_max:
                raise Invalid(
                    f"eks: a tenant allows at most {self.entries_max} chips by name. It would have {total} with these"
                )
            if added:
                await self.audit.write(
                    operator_actor(operator), "trust.eks_allowed", tenant, tenant, added=added, total=total, note=note
                )
        return schemas.AllowedEks(added, len(body.eks) - added - len(refused), total, tuple(refused))

    async def allowed(self, tenant: TenantId, cursor: str, limit: int) -> schemas.Page[schemas.AllowedEk]:
        """A page of the allowed chips. Raises NotFound, Invalid."""
        await self.hardware.find(tenant)
        rows = await self.tenants.allowed_page(tenant, views.read_cursor(cursor), views.read_limit(limit) + 1)
        return views.page([views.ek_allowed(row) for row in rows], [row.id for row in rows], limit)

    async def remove_ek(self, operator: Operator, tenant: TenantId, body: schemas.RemoveEk) -> schemas.TenantTrust:
        """Remove an allowed chip. Its node keeps its leases until its next activation or renewal with evidence.

        A repeat changes nothing.         Raises NotFound, Invalid.
        """
        await self.hardware.find(tenant)
        try:
            identifier = ek_identifier(body.ek)
        except ValueError as error:
            raise Invalid(f"ek: {error}") from error
        async with self.acting.transaction(operator, tenant_key(tenant)):
            if await self.tenants.remove_allowed(tenant, identifier):
                await self.audit.write(operator_actor(operator), "trust.ek_removed", tenant, tenant)
        return await self.hardware.trust(tenant)

    async def remove_root(self, operator: Operator, tenant: TenantId, sha256: str) -> schemas.TenantTrust:
        """Remove a CA certificate by its SHA-256 (hex). Nodes under it keep their leases, as in `remove_ek`.

        A repeat changes nothing. Raises NotFound.
        """
        await self.hardware.find(tenant)
        async with self.acting.transaction(operator, tenant_key(tenant)):
            if await self.tenants.remove_root(tenant, sha256.lower()):
                await self.audit.write(
                    operator_actor(operator), "trust.root_removed", tenant, tenant, sha256=sha256.lower()
                )
        return await self.hardware.trust(tenant)
