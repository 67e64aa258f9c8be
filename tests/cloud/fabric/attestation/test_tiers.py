"""`cloud.fabric.attestation.tiers`: what tenant and code admit, and who must be approved."""

from itertools import product

import pytest

from cloud.fabric.attestation.tiers import TIERS, TierRefused, admitted_tiers, check_tier, needs_approval, own_terms
from cloud.fabric.schemas import LeaseTerms
from protocol.signed.statements import Tier


@pytest.mark.parametrize(("tier", "tier_min"), list(product(TIERS, TIERS)))
def test_a_code_admits_no_tier_below_its_least_one(tier: Tier, tier_min: Tier) -> None:
    """`attested` is the strongest proof, `software` the weakest."""
    better = TIERS.index(tier) <= TIERS.index(tier_min)
    assert (tier in admitted_tiers(TIERS, tier_min)) is better
    if better:
        check_tier(tier, TIERS, tier_min)
        return
    with pytest.raises(TierRefused) as caught:
        check_tier(tier, TIERS, tier_min)
    assert str(caught.value) == (
        f"the machine reaches the tier {tier}; this activation code admits {tier_min} or better"
    )


def test_a_tenant_admits_the_tiers_that_it_lists() -> None:
    assert admitted_tiers(("software", "attested"), "software") == ("attested", "software")
    with pytest.raises(TierRefused) as caught:
        check_tier("tpm", ("software", "attested"))
    assert str(caught.value) == "the machine reaches the tier tpm; the tenant admits attested, software"


def test_code_or_tenant_demand_an_approval() -> None:
    assert not needs_approval("tpm", (), code_wants=False)
    assert needs_approval("tpm", (), code_wants=True)
    weakest: tuple[Tier, ...] = ("software",)
    assert needs_approval("software", weakest, code_wants=False)
    assert not needs_approval("tpm", weakest, code_wants=False)


def test_the_dates_of_the_code_come_before_those_of_the_tenant() -> None:
    of_code, of_tenant = LeaseTerms(1, 2, 3, 4), LeaseTerms(5, 6, 7, 8)
    assert own_terms("software", of_code, {"software": of_tenant}) == of_code
    assert own_terms("software", None, {"software": of_tenant}) == of_tenant
    assert own_terms("tpm", None, {"software": of_tenant}) is None
