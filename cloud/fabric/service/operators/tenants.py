"""Use case: operators make and list tenants, and set the hardware that a tenant trusts."""

from dataclasses import dataclass

import msgspec

from cloud.fabric import schemas
from cloud.fabric.attestation.ek_roots import TrustError, parse_trust_pem
from cloud.fabric.attestation.tiers import TIERS
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.licensing import statements
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.ports import Now
from cloud.fabric.service.unchanged import Unchanged
from cloud.fabric.store.keys import tenant_key
from cloud.fabric.store.rows import EkAllowedRow, EkRootRow, TenantRow
from cloud.fabric.store.tenants import EK_ROOTS_MAX, TRUST_ENTRIES_MAX, TenantStore, allowed_id
from cloud.http.conditions import IfMatch
from cloud.http.guard import Operator
from protocol.encoding import sha256_hex
from protocol.endorsement import EkType, ek_identifier
from protocol.hardware import SALT_BYTES
from protocol.ids import TenantId
from protocol.limits import NAME_CHARS_MAX


@dataclass(frozen=True, kw_only=True)
class Tenants:
    """Makes and lists tenants, and sets the hardware that they trust."""

    now: Now
    entropy: Entropy
    acting: Acting
    audit: AuditLog
    tenants: TenantStore
    unchanged: Unchanged
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
            await self.tenants.insert(row, "created")
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
        return await self._shown(await self.find(tenant))

    async def page(self, cursor: str, limit: int) -> schemas.Page[schemas.Tenant]:
        """A page of tenants, the oldest first. Raises Invalid."""
        rows = await self.tenants.page(views.read_cursor(cursor), views.read_limit(limit) + 1)
        return views.page([await self._shown(row) for row in rows], [row.id for row in rows], limit)

    async def _shown(self, row: TenantRow) -> schemas.Tenant:
        return views.tenant(row, await self.tenants.overlap_until(row.id))

    async def trust(self, tenant: TenantId) -> schemas.TenantTrust:
        """The hardware that a tenant trusts. Raises NotFound."""
        row = await self.find(tenant)
        return schemas.TenantTrust(
            tenant=row.id,
            tiers=row.tiers,
            ek_roots=tuple(views.ek_root(root) for root in await self.tenants.roots(tenant)),
            ek_allowed=tuple(views.ek_allowed(entry) for entry in await self.tenants.allowed(tenant)),
            ek_allowed_total=await self.tenants.count_allowed(tenant),
            pcr_policies=row.pcr_policies,
            approval_tiers=row.approval_tiers,
            lease_terms=row.lease_terms,
        )

    async def add_ek_roots(self, operator: Operator, tenant: TenantId, body: schemas.AddEkRoots) -> schemas.TenantTrust:
        """Trust a maker's CA certificates. Certificates that the tenant trusts already are not added twice.

        A certificate that cannot be used is listed in the answer, and the others are added. One EK type identifies the
        chips of a root, so a root that is trusted for another type counts as one that cannot be used. The type of an
        intermediate means nothing. Raises NotFound, Invalid.
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
            there = await self.tenants.roots(tenant)
            types = {root.sha256: root.ek_type for root in there}
            other = [row for row in rows if types.get(row.sha256, body.ek_type) != body.ek_type]
            conflicts = [row for row in other if row.certificate in file.roots]
            new = [row for row in rows if row.sha256 not in types]
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
        refused = [schemas.RefusedCertificate(each.number, each.line, each.reason) for each in file.refused]
        refused += [
            schemas.RefusedCertificate(*file.places[row.certificate], _other_type(types[row.sha256]))
            for row in conflicts
        ]
        known = len(rows) - len(new) - len(conflicts)
        return msgspec.structs.replace(
            await self.trust(tenant), upload=schemas.AddedEkRoots(len(new), known, tuple(refused))
        )

    async def allow_ek(self, operator: Operator, tenant: TenantId, body: schemas.AllowEk) -> schemas.TenantTrust:
        """Admit one chip as `attested` without an endorsement certificate. Raises NotFound, Invalid."""
        await self.find(tenant)
        try:
            name = ek_identifier(body.ek_name)
        except ValueError as error:
            raise Invalid(f"ek_name: {error}") from error
        row = EkAllowedRow(allowed_id(tenant, name), tenant, name, check_text("note", body.note), self.now())
        async with self.acting.transaction(operator, tenant_key(tenant)):
            if await self.tenants.add_allowed(row):
                if await self.tenants.count_allowed(tenant) > self.entries_max:
                    raise Invalid(f"a tenant allows at most {self.entries_max} chips by name")
                await self.audit.write(operator_actor(operator), "trust.ek_allowed", tenant, tenant, note=row.note)
        return await self.trust(tenant)

    async def set_tiers(
        self,
        operator: Operator,
        tenant: TenantId,
        body: schemas.SetTiers,
        if_match: IfMatch = None,
        dry_run: bool = False,
    ) -> schemas.TenantTrust:
        """Set the tiers that the tenant admits. Activated nodes keep their leases.

        Raises NotFound, Invalid, ChangedSinceRead.
        """
        await self.find(tenant)
        if not body.tiers or set(body.tiers) - set(TIERS):
            raise Invalid(f"tiers: at least one of {', '.join(TIERS)}")
        tiers = tuple(tier for tier in TIERS if tier in body.tiers)
        async with self.acting.transaction(operator, tenant_key(tenant), dry_run=dry_run):
            await self.check_unchanged(if_match, tenant)
            await self.tenants.set_tiers(tenant, tiers)
            await self.audit.write(operator_actor(operator), "trust.tiers_set", tenant, tenant, tiers=",".join(tiers))
            return await self.trust(tenant)

    async def check_unchanged(self, if_match: IfMatch, tenant: TenantId) -> None:
        """Check in a transaction that the hardware that a tenant trusts is what was read.

        Raises NotFound, ChangedSinceRead.
        """
        if if_match is not None:
            await self.unchanged.check(if_match, tenant, await self.trust(tenant))

    async def set_approval_tiers(
        self,
        operator: Operator,
        tenant: TenantId,
        body: schemas.SetApprovalTiers,
        if_match: IfMatch = None,
        dry_run: bool = False,
    ) -> schemas.TenantTrust:
        """Set the tiers whose activations a person must approve. Raises NotFound, ChangedSinceRead."""
        await self.find(tenant)
        tiers = tuple(tier for tier in TIERS if tier in body.tiers)
        async with self.acting.transaction(operator, tenant_key(tenant), dry_run=dry_run):
            await self.check_unchanged(if_match, tenant)
            await self.tenants.set_approval_tiers(tenant, tiers)
            await self.audit.write(
                operator_actor(operator), "trust.approval_set", tenant, tenant, tiers=",".join(tiers) or "none"
            )
            return await self.trust(tenant)

    async def set_lease_terms(
        self,
        operator: Operator,
        tenant: TenantId,
        body: schemas.SetLeaseTerms,
        if_match: IfMatch = None,
        dry_run: bool = False,
    ) -> schemas.TenantTrust:
        """Set the dates of leases of a tier, for later activations. Activated nodes keep theirs.

        Raises NotFound, Invalid, ChangedSinceRead.
        """
        await self.find(tenant)
        if body.lease is not None:
            try:
                statements.check_terms(body.lease)
            except statements.TermsError as error:
                raise Invalid(f"lease: {error}") from error
        async with self.acting.transaction(operator, tenant_key(tenant), dry_run=dry_run):
            await self.check_unchanged(if_match, tenant)
            terms = {**(await self.find(tenant)).lease_terms}
            terms.pop(body.tier, None)
            if body.lease is not None:
                terms[body.tier] = body.lease
            await self.tenants.set_lease_terms(tenant, terms)
            seconds = "default" if body.lease is None else ",".join(map(str, msgspec.structs.astuple(body.lease)))
            await self.audit.write(
                operator_actor(operator), "trust.lease_set", tenant, tenant, tier=body.tier, seconds=seconds
            )
            return await self.trust(tenant)


def _other_type(ek_type: EkType) -> str:
    return f"the root is trusted already, for EKs of the type {ek_type}. Remove it first to change the type"
