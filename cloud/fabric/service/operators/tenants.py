"""Use case: operators make and list tenants, and set the hardware that a tenant trusts."""

import re
from dataclasses import dataclass

import msgspec

from cloud.fabric import schemas
from cloud.fabric.attestation.ek_roots import TrustError, parse_trust_pem
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.ports import Now
from cloud.fabric.store.keys import tenant_key
from cloud.fabric.store.rows import EkAllowedRow, EkRootRow, TenantRow
from cloud.fabric.store.tenants import EK_ROOTS_MAX, TRUST_ENTRIES_MAX, TenantStore
from cloud.http.guard import Operator
from protocol.encoding import sha256_hex
from protocol.hardware import SALT_BYTES
from protocol.ids import TenantId
from protocol.limits import NAME_CHARS_MAX
from protocol.signed.statements import Tier

_EK_NAME = re.compile(r"000b[0-9a-f]{64}")
_TIERS: tuple[Tier, ...] = ("attested", "tpm")
"""The tiers that a tenant can admit. `software` needs a comparison of fingerprints, which is not built yet."""


@dataclass(frozen=True, kw_only=True)
class Tenants:
    """Makes and lists tenants, and sets the hardware that they trust."""

    now: Now
    entropy: Entropy
    acting: Acting
    audit: AuditLog
    tenants: TenantStore
    entries_max: int = TRUST_ENTRIES_MAX
    """Most chips that a tenant allows by name."""
    roots_max: int = EK_ROOTS_MAX
    """Most CA certificates of makers that a tenant trusts."""

    async def create(self, operator: Operator, body: schemas.CreateTenant) -> schemas.Tenant:
        """Make a tenant that admits `attested` machines. Raises Invalid."""
        now = self.now()
        row = TenantRow(
            id=TenantId(new_id("ten", now, self.entropy)),
            name=check_text("name", body.name, NAME_CHARS_MAX, empty=False),
            fingerprint_salt=self.entropy(SALT_BYTES),
            tiers=("attested",),
            created_at=now,
        )
        async with self.acting.transaction(operator, tenant_key(row.id)):
            await self.tenants.insert(row)
            await self.audit.write(operator_actor(operator), "tenant.created", row.id, row.id, name=row.name)
        return views.tenant(row)

    async def find(self, tenant: TenantId) -> TenantRow:
        """The row of a tenant. Raises NotFound."""
        row = await self.tenants.find(tenant)
        if row is None:
            raise NotFound("no such tenant")
        return row

    async def show(self, tenant: TenantId) -> schemas.Tenant:
        """One tenant. Raises NotFound."""
        return views.tenant(await self.find(tenant))

    async def page(self, cursor: str, limit: int) -> schemas.Page[schemas.Tenant]:
        """A page of tenants, the oldest first. Raises Invalid."""
        rows = await self.tenants.page(views.read_cursor(cursor), views.read_limit(limit) + 1)
        return views.page([views.tenant(row) for row in rows], [row.id for row in rows], limit)

    async def trust(self, tenant: TenantId) -> schemas.TenantTrust:
        """The hardware that a tenant trusts. Raises NotFound."""
        row = await self.find(tenant)
        return schemas.TenantTrust(
            tenant=row.id,
            tiers=row.tiers,
            ek_roots=tuple(views.ek_root(root) for root in await self.tenants.roots(tenant)),
            ek_allowed=tuple(views.ek_allowed(entry) for entry in await self.tenants.allowed(tenant)),
            pcr_policies=row.pcr_policies,
        )

    async def add_ek_roots(self, operator: Operator, tenant: TenantId, body: schemas.AddEkRoots) -> schemas.TenantTrust:
        """Trust a maker's CA certificates. Certificates that the tenant trusts already are not added twice.

        A certificate that cannot be used is listed in the answer, and the others are added. Raises NotFound, Invalid.
        """
        await self.find(tenant)
        try:
            file = parse_trust_pem(body.pem.encode())
        except TrustError as error:
            raise Invalid(f"pem: {error}") from error
        now = self.now()
        rows = [
            EkRootRow(
                id=sha256_hex(f"{tenant}\n{body.ek_type}\n".encode() + der),
                tenant=tenant,
                sha256=sha256_hex(der),
                certificate=der,
                ek_type=body.ek_type,
                added_at=now,
            )
            for der in (*file.roots, *file.intermediates)
        ]
        async with self.acting.transaction(operator, tenant_key(tenant)):
            there = {root.id for root in await self.tenants.roots(tenant)}
            new = [row for row in rows if row.id not in there]
            if len(there) + len(new) > self.roots_max:
                raise Invalid(
                    f"a tenant trusts at most {self.roots_max} CA certificates. It has {len(there)}, and the request "
                    f"has {len(new)} new ones"
                )
            for row in new:
                await self.tenants.add_root(row)
                await self.audit.write(
                    operator_actor(operator), "trust.root_added", tenant, tenant, sha256=row.sha256, ek_type=row.ek_type
                )
        refused = tuple(schemas.RefusedCertificate(each.number, each.line, each.reason) for each in file.refused)
        return msgspec.structs.replace(
            await self.trust(tenant), upload=schemas.AddedEkRoots(len(new), len(rows) - len(new), refused)
        )

    async def allow_ek(self, operator: Operator, tenant: TenantId, body: schemas.AllowEk) -> schemas.TenantTrust:
        """Admit one chip as `attested` without an endorsement certificate. Raises NotFound, Invalid."""
        await self.find(tenant)
        name = body.ek_name.strip().lower()
        if not _EK_NAME.fullmatch(name):
            raise Invalid("ek_name: must have 68 hex digits, 000b and the SHA-256 of the EK's public area")
        now = self.now()
        key = sha256_hex(f"{tenant}\n{name}".encode())
        row = EkAllowedRow(key, tenant, name, check_text("note", body.note), now)
        async with self.acting.transaction(operator, tenant_key(tenant)):
            there = {entry.id for entry in await self.tenants.allowed(tenant)}
            if key not in there:
                if len(there) >= self.entries_max:
                    raise Invalid(f"a tenant allows at most {self.entries_max} chips by name")
                await self.tenants.add_allowed(row)
                await self.audit.write(operator_actor(operator), "trust.ek_allowed", tenant, tenant, note=row.note)
        return await self.trust(tenant)

    async def set_tiers(self, operator: Operator, tenant: TenantId, body: schemas.SetTiers) -> schemas.TenantTrust:
        """Set the tiers that the tenant admits. Activated nodes keep their leases. Raises NotFound, Invalid."""
        await self.find(tenant)
        if not body.tiers or set(body.tiers) - set(_TIERS):
            raise Invalid(f"tiers: at least one of {', '.join(_TIERS)}")
        tiers = tuple(tier for tier in _TIERS if tier in body.tiers)
        async with self.acting.transaction(operator, tenant_key(tenant)):
            await self.tenants.set_tiers(tenant, tiers)
            await self.audit.write(operator_actor(operator), "trust.tiers_set", tenant, tenant, tiers=",".join(tiers))
        return await self.trust(tenant)
