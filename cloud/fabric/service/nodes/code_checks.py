"""Use case: check that code and tenant still admit a machine. Called in the transaction that commits.

An activation takes several requests. Between them an operator may revoke the code, the code may expire, or the tenant
may stop to admit a tier. Each step that commits asks again, with the keys of code and tenant.
"""

from dataclasses import dataclass

from cloud.fabric.errors import CodeExpired, CodeRefused, CodeRevoked, TierNotAllowed
from cloud.fabric.service.ports import Now
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.rows import ActivationRow, CodeRow
from cloud.fabric.store.tenants import TenantStore

REFUSALS = (CodeExpired, CodeRefused, CodeRevoked, TierNotAllowed)
"""The errors of `CodeChecks.admitted`. After one of them the activation cannot succeed any more."""


@dataclass(frozen=True, kw_only=True)
class CodeChecks:
    """Checks codes and tenants."""

    now: Now
    codes: CodeStore
    tenants: TenantStore

    def check_usable(self, code: CodeRow) -> None:
        """Raises CodeRevoked, CodeExpired."""
        if code.revoked_at is not None:
            raise CodeRevoked
        if code.expires_at <= self.now():
            raise CodeExpired

    async def admitted(self, row: ActivationRow) -> CodeRow:
        """The code of an activation, if the code is usable and the tenant admits the activation's tier.

        Raises CodeRefused, CodeRevoked, CodeExpired, TierNotAllowed.
        """
        code, tenant = await self.codes.find(row.code), await self.tenants.find(row.tenant)
        if code is None or tenant is None:
            raise CodeRefused
        self.check_usable(code)
        if row.tier not in tenant.tiers:
            raise TierNotAllowed(f"the tenant does not admit the tier {row.tier} any more")
        return code
