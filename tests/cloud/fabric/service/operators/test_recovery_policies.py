"""`cloud.fabric.service.operators.recovery_policies`: defaults, single changes, and every bound."""

from typing import Any

import msgspec
import pytest

from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.bodies.recovery_codes import SetRecoveryPolicy
from cloud.fabric.errors import Invalid, NotFound
from cloud.fabric.service.operators.recovery_policies import BOUNDS
from protocol.ids import TenantId, make_id
from tests.cloud.fabric.support import ALICE, World

NOBODY = TenantId(make_id("ten", 9, bytes(10)))


async def test_a_tenant_begins_with_the_defaults_and_values_that_are_left_out_stay(world: World) -> None:
    policies = world.parts.operators.recovery_policies
    assert await policies.show(world.tenant) == RecoveryPolicy()
    for _ in range(2):
        await policies.set(ALICE, world.tenant, SetRecoveryPolicy(grace_quota=2, grace_hours=48))
    await policies.set(ALICE, world.tenant, SetRecoveryPolicy(period_days=30))
    assert await policies.show(world.tenant) == RecoveryPolicy(grace_quota=2, grace_hours=48, period_days=30)
    rows = await world.stores.audit.page(world.tenant, world.tenant, "tenant.recovery_policy", "aud_8", 10)
    assert [row.detail for row in rows] == [{"period_days": "30"}, {"grace_quota": "2", "grace_hours": "48"}]


def test_every_value_of_the_policy_has_a_bound_and_can_be_set() -> None:
    names = RecoveryPolicy.__struct_fields__
    assert tuple(BOUNDS) == names == SetRecoveryPolicy.__struct_fields__
    for name, default in msgspec.structs.asdict(RecoveryPolicy()).items():
        assert BOUNDS[name][0] <= default <= BOUNDS[name][1]


async def test_each_bound(world: World) -> None:
    policies = world.parts.operators.recovery_policies
    for name, bounds in BOUNDS.items():
        for value, outside in zip(bounds, (bounds[0] - 1, bounds[1] + 1), strict=True):
            assert getattr(await policies.set(ALICE, world.tenant, _only(name, value)), name) == value
            before = await policies.show(world.tenant)
            with pytest.raises(Invalid, match=name):
                await policies.set(ALICE, world.tenant, _only(name, outside))
            assert await policies.show(world.tenant) == before


async def test_an_unknown_tenant_has_no_policy(world: World) -> None:
    policies = world.parts.operators.recovery_policies
    with pytest.raises(NotFound):
        await policies.show(NOBODY)
    with pytest.raises(NotFound):
        await policies.set(ALICE, NOBODY, SetRecoveryPolicy(grace_quota=1))


def _only(name: str, value: int) -> SetRecoveryPolicy:
    given: dict[str, Any] = {name: value}
    return SetRecoveryPolicy(**given)
