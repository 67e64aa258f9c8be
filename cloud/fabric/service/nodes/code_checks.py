"""Use case: check that code and tenant still admit a machine. Called in the transaction that commits.

An activation takes several requests. Between them an operator may revoke the code, the code may expire, or the tenant
may stop to admit a tier. Each step that commits asks again, with the keys of code and tenant.
"""

from dataclasses import dataclass

import msgspec

from cloud.fabric.attestation import tiers
from cloud.fabric.attestation.pcr_quotes import pcr_policy
from cloud.fabric.errors import CodeExpired, CodeRefused, CodeRevoked, TierNotAllowed, TpmRequired
from cloud.fabric.schemas import LeaseTerms, Matched
from cloud.fabric.service.ports import Now
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.rows import ActivationRow, CodeRow, TenantRow
from cloud.fabric.store.tenants import TenantStore
from protocol.signed.statements import Tier

REFUSALS = (CodeExpired, CodeRefused, CodeRevoked, TierNotAllowed, TpmRequired)
"""The errors of `CodeChecks.admitted`. After one of them the activation cannot succeed any more."""

RECOGNISED_IN_PART: tuple[Matched, ...] = ("fingerprint", "changed")
"""A machine without a TPM shows one of key and fingerprint. A person decides, and the new fingerprint is enrolled."""


class Admitted(msgspec.Struct, frozen=True):
    """The code and the tenant that admit an activation."""

    code: CodeRow
    tenant: TenantRow

    def needs_approval(self, tier: Tier) -> bool:
        """Whether a person must approve an activation of this tier."""
        return tiers.needs_approval(tier, self.tenant.approval_tiers, code_wants=self.code.approval)

    def terms(self, tier: Tier) -> LeaseTerms | None:
        """The dates of leases that the code sets, else the tenant for this tier; None for the default dates."""
        return tiers.own_terms(tier, self.code.lease, self.tenant.lease_terms)


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

    async def admitted(self, row: ActivationRow) -> Admitted:
        """The code and the tenant of an activation, if the code is usable and both admit the activation's tier.

        Raises CodeRefused, CodeRevoked, CodeExpired, TierNotAllowed, TpmRequired.
        """
        code, tenant = await self.codes.find(row.code), await self.tenants.find(row.tenant)
        if code is None or tenant is None:
            raise CodeRefused
        self.check_usable(code)
        self.check_tier(row.tier, code, tenant)
        return Admitted(code, tenant)

    def check_tier(self, tier: Tier, code: CodeRow, tenant: TenantRow) -> None:
        """Check that code and tenant admit a tier. Raises TierNotAllowed.

        Raises TpmRequired for a machine without a TPM whose profile requires a PCR quote: it would get no session.
        """
        try:
            tiers.check_tier(tier, tenant.tiers, code.tier_min)
        except tiers.TierRefused as error:
            raise TierNotAllowed(str(error)) from error
        if tier == "software" and pcr_policy(tenant.pcr_policies, code.profile) == "require":
            raise TpmRequired(f"the tenant requires PCR quotes for the profile {code.profile}")
