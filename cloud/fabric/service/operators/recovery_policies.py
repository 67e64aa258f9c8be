"""Use case: operators read and set a tenant's policy for recoveries."""

from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.bodies.recovery_codes import (
    CASE_DAYS_MAX,
    CODE_DELAY_HOURS_MAX,
    GRACE_HOURS_MAX,
    GRACE_QUOTA_MAX,
    PERIOD_DAYS_MAX,
    REPAIR_QUOTA_MAX,
    SILENCE_MINUTES_MAX,
    SetRecoveryPolicy,
)
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.unchanged import Unchanged
from cloud.fabric.store.keys import tenant_key
from cloud.fabric.store.tenants import TenantStore
from cloud.http.conditions import IfMatch
from cloud.http.guard import Operator
from protocol.ids import TenantId

BOUNDS: dict[str, tuple[int, int]] = {
    "grace_quota": (0, GRACE_QUOTA_MAX),
    "period_days": (1, PERIOD_DAYS_MAX),
    "grace_hours": (1, GRACE_HOURS_MAX),
    "silence_minutes": (0, SILENCE_MINUTES_MAX),
    "repair_quota": (0, REPAIR_QUOTA_MAX),
    "code_delay_hours": (0, CODE_DELAY_HOURS_MAX),
    "case_days": (1, CASE_DAYS_MAX),
}
"""The least and the greatest value of each field."""


@dataclass(frozen=True, kw_only=True)
class RecoveryPolicies:
    """Reads and sets policies for recoveries."""

    acting: Acting
    audit: AuditLog
    tenants: TenantStore
    unchanged: Unchanged

    async def show(self, tenant: TenantId) -> RecoveryPolicy:
        """The policy of a tenant. Raises NotFound."""
        row = await self.tenants.find(tenant)
        if row is None:
            raise NotFound("no such tenant")
        return row.recovery

    async def set(
        self,
        operator: Operator,
        tenant: TenantId,
        body: SetRecoveryPolicy,
        if_match: IfMatch = None,
        dry_run: bool = False,
    ) -> RecoveryPolicy:
        """Set the values that the body has. Cases and leases that are there keep their dates.

        Raises NotFound, Invalid, ChangedSinceRead.
        """
        given: dict[str, Any] = {
            name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET
        }
        for name, value in given.items():
            least, greatest = BOUNDS[name]
            if not least <= value <= greatest:
                raise Invalid(f"{name}: {least} to {greatest}")
        async with self.acting.transaction(operator, tenant_key(tenant), dry_run=dry_run):
            old = await self.show(tenant)
            await self.unchanged.check(if_match, tenant, old)
            new = msgspec.structs.replace(old, **given)
            if new != old:
                await self.tenants.set_recovery(tenant, new)
                await self.audit.write(operator_actor(operator), "tenant.recovery_policy", tenant, tenant, **given)
        return new
