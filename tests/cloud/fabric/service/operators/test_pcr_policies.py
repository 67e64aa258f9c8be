"""`cloud.fabric.service.operators.pcr_policies`: policies for PCR quotes, and the acceptance of changed values."""

from dataclasses import replace

import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.store.keys import REPORTS
from protocol.ids import NodeId, TenantId, make_id
from tests.cloud.fabric.support import ALICE, Machine, World

VALUES = ("ab" * 32,) * 8


async def test_a_policy_is_set_for_a_profile_or_for_every_other(world: World) -> None:
    policies = world.parts.operators.pcr_policies
    for _ in range(2):
        await policies.set_policy(ALICE, world.tenant, schemas.SetPcrPolicy("require", "press"))
        await policies.set_policy(ALICE, world.tenant, schemas.SetPcrPolicy("ignore"))
    trust = await world.parts.operators.tenants.trust(world.tenant)
    assert trust.pcr_policies == {"press": "require", "": "ignore"}
    assert (await world.actions(world.tenant)).count("trust.pcr_policy_set") == 2


async def test_policies_are_bounded_and_of_a_tenant(world: World) -> None:
    policies = replace(world.parts.operators.pcr_policies, policies_max=1)
    await policies.set_policy(ALICE, world.tenant, schemas.SetPcrPolicy("require"))
    with pytest.raises(errors.Invalid, match="at most 1"):
        await policies.set_policy(ALICE, world.tenant, schemas.SetPcrPolicy("require", "press"))
    with pytest.raises(errors.Invalid, match="profile"):
        await policies.set_policy(ALICE, world.tenant, schemas.SetPcrPolicy("require", "\n"))
    with pytest.raises(errors.NotFound):
        nobody = TenantId(make_id("ten", 1, bytes(10)))
        await policies.set_policy(ALICE, nobody, schemas.SetPcrPolicy("require"))


async def test_only_the_values_of_the_last_quote_can_be_accepted(world: World, machine: Machine) -> None:
    accept = world.parts.operators.pcr_policies.accept
    with pytest.raises(errors.Conflict, match="no valid quote"):
        await accept(ALICE, machine.node, schemas.AcceptPcrs(()))
    with pytest.raises(errors.NotFound):
        await accept(ALICE, NodeId(make_id("node", 1, bytes(10))), schemas.AcceptPcrs(()))
    generation = await world.generation(machine.node, 1)
    async with world.stores.transaction(REPORTS):
        await world.stores.nodes.set_pcrs(generation.id, VALUES, "", world.clock())
        await world.stores.nodes.set_pcrs(generation.id, ("cd" * 32, *VALUES[1:]), "", world.clock())
    with pytest.raises(errors.Conflict, match="other PCR values by now"):
        await accept(ALICE, machine.node, schemas.AcceptPcrs(VALUES))
    for _ in range(2):
        detail = await accept(ALICE, machine.node, schemas.AcceptPcrs(("cd" * 32, *VALUES[1:])))
        assert detail.generations[0].pcr_changed == ()
    entries = await world.stores.audit.page("", machine.node, "node.pcrs_accepted", "aud_8", 200)
    assert [entry.detail["changed"] for entry in entries] == ["0"]
    kept = await world.generation(machine.node, 1)
    assert kept.pcr_accepted == ("cd" * 32, *VALUES[1:])
