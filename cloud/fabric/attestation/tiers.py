"""Pure functions: the order of the assurance tiers, what a tenant and a code admit, and who must be approved.

The evidence alone decides which tier a machine reaches. The node never chooses it. Two rules admit the tier: the tenant
lists it, and it is not below the lowest tier of the activation code. A person must approve an activation if the code
says so, or the tenant says so for this tier.
"""

from collections.abc import Collection, Mapping

from cloud.fabric.schemas import LeaseTerms
from protocol.signed.statements import Tier

TIERS: tuple[Tier, ...] = ("attested", "tpm", "software")
"""From the strongest proof to the weakest."""


class TierRefused(Exception):
    """Tenant or code do not admit a tier. The text names the tier that was reached, and the admitted ones."""


def admitted_tiers(tenant_tiers: Collection[Tier], tier_min: Tier) -> tuple[Tier, ...]:
    """The tiers that tenant and code admit together, the strongest first. `tier_min` is the code's lowest tier."""
    return tuple(tier for tier in TIERS if tier in tenant_tiers and TIERS.index(tier) <= TIERS.index(tier_min))


def check_tier(tier: Tier, tenant_tiers: Collection[Tier], tier_min: Tier = "software") -> None:
    """Check that tenant and code admit a tier. Raises TierRefused."""
    if tier not in tenant_tiers:
        admitted = ", ".join(each for each in TIERS if each in tenant_tiers)
        raise TierRefused(f"the machine reaches the tier {tier}; the tenant admits {admitted}")
    if tier not in admitted_tiers(tenant_tiers, tier_min):
        raise TierRefused(f"the machine reaches the tier {tier}; this activation code admits {tier_min} or better")


def needs_approval(tier: Tier, approval_tiers: Collection[Tier], *, code_wants: bool) -> bool:
    """Whether a person must approve. `approval_tiers` are the tenant's; `code_wants` is the setting of the code."""
    return code_wants or tier in approval_tiers


def own_terms(tier: Tier, code_terms: LeaseTerms | None, tenant_terms: Mapping[Tier, LeaseTerms]) -> LeaseTerms | None:
    """The dates of leases that the code sets, else those that the tenant sets for the tier; None for the default dates."""
    return code_terms if code_terms is not None else tenant_terms.get(tier)
