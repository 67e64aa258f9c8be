"""`cloud.fabric.service.unchanged`: a change of another state than the one read is refused, with its cause."""

import asyncio

import pytest

from cloud.fabric import schemas
from cloud.fabric.bodies.clones import SetClonePolicy
from cloud.fabric.bodies.recovery_codes import SetRecoveryPolicy
from cloud.fabric.errors import ChangedSinceRead, refusal
from cloud.http.conditions import etag_of
from tests.cloud.fabric.support import ALICE, World


async def test_the_refusal_names_who_changed_what_and_when(world: World) -> None:
    operators = world.parts.operators
    made = await operators.tokens.create(ALICE, schemas.CreateToken("night shift"))
    other = await operators.tokens.authenticate(made.secret)
    assert other is not None
    read = frozenset({etag_of(await operators.tenants.trust(world.tenant))})
    await operators.tenants.set_tiers(other, world.tenant, schemas.SetTiers(("tpm",)), read)
    with pytest.raises(ChangedSinceRead) as caught:
        await operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("software",)), read)
    assert refusal(caught.value).detail == (
        f"the last change is `trust.tiers_set` by operator 'night shift' ({other.id}) at "
        f"{world.clock().isoformat(timespec='seconds').replace('+00:00', 'Z')}: tiers=tpm"
    )
    assert (await operators.tenants.trust(world.tenant)).tiers == ("tpm",)


async def test_of_two_changes_at_once_one_is_refused(world: World) -> None:
    operators = world.parts.operators
    read = frozenset({etag_of(await operators.tenants.trust(world.tenant))})
    changes = (
        operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("tpm",)), read),
        operators.tenants.set_approval_tiers(ALICE, world.tenant, schemas.SetApprovalTiers(("tpm",)), read),
        operators.pcr_policies.set_policy(ALICE, world.tenant, schemas.SetPcrPolicy("require"), read),
        operators.tenants.set_lease_terms(
            ALICE, world.tenant, schemas.SetLeaseTerms("tpm", schemas.LeaseTerms(60, 600, 6000, 60000)), read
        ),
    )
    ended = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(type(each).__name__ for each in ended) == [*["ChangedSinceRead"] * 3, "TenantTrust"]
    (done,) = (each for each in ended if isinstance(each, schemas.TenantTrust))
    assert etag_of(done) == etag_of(await operators.tenants.trust(world.tenant))


async def test_a_stale_policy_changes_nothing(world: World) -> None:
    operators, stale = world.parts.operators, frozenset({'"stale"'})
    shown, policy = (
        await operators.tenants.show(world.tenant),
        await operators.recovery_policies.show(world.tenant),
    )
    with pytest.raises(ChangedSinceRead):
        await operators.clone_cases.set_policy(ALICE, world.tenant, SetClonePolicy("suspend-both"), stale)
    with pytest.raises(ChangedSinceRead):
        await operators.recovery_policies.set(ALICE, world.tenant, SetRecoveryPolicy(grace_quota=7), stale)
    assert await operators.tenants.show(world.tenant) == shown
    assert await operators.recovery_policies.show(world.tenant) == policy


async def test_an_object_whose_changes_the_audit_no_longer_has(world: World) -> None:
    with pytest.raises(ChangedSinceRead, match="no recent change"):
        await world.parts.operators.tenants.unchanged.check(frozenset(), "ten_of_another_time", {"name": "a"})
